"""LightX2V: quantized networks in every scheme that it reads, with the configuration to start them.

The names are diffusers' own, as LLMC writes them and `scripts/converter.py -d backward` reads them, or LightX2V's. With
smoothing it multiplies `affine_norm1/3` onto (1 + scale) and shift, if the config says `quant_method: advanced_ptq`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field

from llmc.convert.rename import Renamer
from llmc.convert.writer import STEM, is_replaced, write_checkpoint, write_json
from llmc.errors import ExportError
from llmc.export.base import Exporter
from llmc.export.folding import folded_tensors, is_smoothed_at_run_time
from llmc.export.lightx2v.encoders import ENCODER_SCHEMES, TARGETS, EncoderFile, encoder_keys, write_encoder
from llmc.export.lightx2v.runtime import CONFIG_KEYS, EXPERTS, runtime_config, schedule_problem
from llmc.export.lightx2v.schemes import SCHEMES, FileLayout, Runtime, find_scheme, served_by
from llmc.export.part import FinishedPart, LazyTensor, kept, network_config
from llmc.layers.target import Carrier
from llmc.log import log
from llmc.numerics.spec import LayerSpec

if TYPE_CHECKING:
    from llmc.layers.linear import QuantLinear


class LightX2V(Exporter):
    """LightX2V's checkpoints, in diffusers' names or its own."""

    name: Literal["lightx2v"] = "lightx2v"
    native_names: bool = Field(False, description="write LightX2V's own names, with its config.json and a runtime JSON")
    layout: FileLayout = Field("single", description="one file, or one per block for lazy loading")
    runtime: Runtime | None = Field(
        None,
        description="the `dit_quant_scheme` to start it with, whose arithmetic is judged; several read the same files; "
        "default: the first that fits the grids",
    )
    encoder_file: EncoderFile = Field("pth", description="of quantized encoders; LightX2V finds a .pth by its name")
    names: ClassVar[str] = "lightx2v"  # known of the families that it reads, in whichever names they are written
    encoders: ClassVar[frozenset[str] | None] = frozenset(TARGETS)
    accepts: ClassVar[frozenset[str]] = frozenset({"scale", "static"})

    @property
    def tells_sampling(self) -> bool:
        return self.native_names

    def encoder_problem(self, class_name: str, spec: LayerSpec) -> str | None:
        problem = super().encoder_problem(class_name, spec)
        known = spec.weight is not None and find_scheme(spec, None) in ENCODER_SCHEMES
        if problem is None and not known:
            return f"of encoders it reads int8 and fp8_e4m3, per_channel, with act per_token; found {spec}"
        return problem

    def for_encoders(self) -> LightX2V:
        return self.model_copy(update={"runtime": None, "layout": "single"})

    def problems(self, spec: LayerSpec, left: frozenset[str]) -> list[str]:
        problems = super().problems(spec, left)
        if spec.weight is None:
            return [*problems, f"its scheme is one for all linears of all blocks, so none stays float; found {spec}"]
        found = find_scheme(spec, self.runtime)
        if found is None:
            return [*problems, f"{self._takes(spec)}; found {spec}"]
        layouts = SCHEMES[found].layouts
        if self.layout not in layouts:
            problems.append(f"it loads {found} from `layout: {layouts[0]}` only; found `layout: {self.layout}`")
        return problems

    def scheme_of(self, spec: LayerSpec) -> str | None:
        return find_scheme(spec, self.runtime)

    def multiples(self, spec: LayerSpec) -> tuple[int, int]:
        found = find_scheme(spec, self.runtime)
        return (1, 1) if found is None else SCHEMES[found].multiples

    def computed(self, spec: LayerSpec) -> LayerSpec:
        found = find_scheme(spec, self.runtime)
        return spec if found is None else SCHEMES[found].computed(spec)

    def obstacle(self, folder: Path) -> str | None:
        strange = [file.name for file in sorted(folder.glob("*.safetensors"))
                   if not is_replaced(file.name, STEM, ".safetensors")]  # fmt: skip
        if not strange:
            return None
        return (
            f"{folder} holds {', '.join(strange[:3])}: LightX2V merges every safetensors file of a folder; move it away"
        )

    def schedule_problem(self, sampling: Mapping[str, Any]) -> str | None:
        return schedule_problem(sampling)

    def carries(self, spec: LayerSpec) -> frozenset[Carrier]:
        return super().carries(spec) | {"modulated norm"}

    def write(self, part: FinishedPart, folder: Path) -> Path:
        if not part.is_denoiser:
            write_encoder(part, folder, self.encoder_file)
            return folder
        scheme = SCHEMES[self._scheme([part])]
        if scheme.warning:
            log.warning(scheme.warning)
        target = network_folder(part, folder)
        if (obstacle := self.obstacle(target)) is not None:
            raise ExportError(obstacle)
        for stale in folder.glob("lightx2v_*.json"):  # of a scheme that lay here before
            stale.unlink()
        tensors = folded_tensors(part)
        for name, layer in part.layers.items():
            rounded = layer.state.rounded
            assert rounded is not None
            tensors |= {f"{name}.{leaf}": tensor for leaf, tensor in scheme.tensors(layer, rounded).items()}
            tensors |= self._bias(name, layer)
        config = network_config(part)
        smoothed = is_smoothed_at_run_time(tensors)
        if self.native_names:
            from llmc.convert.model_types import MODEL_TYPES  # with torch, which `llmc list` need not wait for

            names = Renamer(part.renames[self.names]).forward_all(tensors)
            tensors = {names[name]: tensor for name, tensor in tensors.items()}
            config = MODEL_TYPES["wan_dit"].config_backward(config)
            config = {key: value for key, value in config.items() if key in CONFIG_KEYS}
        if smoothed:
            config["quant_method"] = "advanced_ptq"
        write_checkpoint(target, tensors, self.layout, part.provenance, config=config)
        return folder

    def finish(self, parts: Sequence[FinishedPart], folder: Path) -> None:
        if self.native_names:
            networks = [part for part in parts if part.is_denoiser]
            folders = {part.name: network_folder(part, folder) for part in networks}
            scheme = self._scheme(parts)
            encoders = encoder_keys(parts, folder, self.encoder_file)
            write_json(folder / f"lightx2v_{scheme}.json", runtime_config(networks, folders, scheme) | encoders)
        super().finish(parts, folder)

    def about(self, parts: Sequence[FinishedPart]) -> dict[str, str]:
        return {"scheme": self._scheme(parts), "names": "lightx2v" if self.native_names else "diffusers"}

    def usage(self, parts: Sequence[FinishedPart]) -> str:
        scheme = self._scheme(parts)
        others = [other for other in served_by(scheme) if other != scheme]
        project = "[LightX2V](https://github.com/ModelTC/LightX2V)"
        if self.native_names:
            start = (
                f"`lightx2v_{scheme}.json` is a configuration for {project}: give it as `--config_json`, and the "
                "folder of the original model, for its encoders and autoencoder, as `--model_path`."
            )
        else:
            start = (
                f"These are diffusers' names. llmc's `scripts/converter.py -s . -o native -d backward` gives them "
                f"those of {project}."
            )
        same = f" The files are the same for {', '.join(others)}: change `dit_quant_scheme`." if others else ""
        warning = SCHEMES[scheme].warning
        return f"{start}{same}\n" + (f"\n{warning}.\n" if warning else "")

    def _scheme(self, parts: Sequence[FinishedPart]) -> Runtime:
        network = next(part for part in parts if part.name in EXPERTS)
        scheme = find_scheme(next(iter(network.layers.values())).spec, self.runtime)
        assert scheme is not None, "refused before calibration"
        return scheme

    def _bias(self, name: str, layer: QuantLinear) -> dict[str, LazyTensor]:
        """With lazy_load a kernel is handed the bias as it lies in the file, and takes only the type of its output."""
        bias = layer.final_bias()
        dtype = torch.bfloat16 if self.layout == "blocks" else layer.dtype
        return {} if bias is None else {f"{name}.bias": kept(bias.to(dtype))}

    def _takes(self, spec: LayerSpec) -> str:
        """The grids that would do: those of the runtime, or of the weight's format, or all."""
        assert spec.weight is not None
        if self.runtime is not None:
            return f"`runtime: {self.runtime}` is for {SCHEMES[self.runtime]}"
        near = [scheme for scheme in SCHEMES.values() if scheme.weight.format == spec.weight.format]
        return "it reads " + ", or ".join(dict.fromkeys(str(scheme) for scheme in near or SCHEMES.values()))


def network_folder(part: FinishedPart, folder: Path) -> Path:
    """Where a network's files lie: two experts have a folder each, since the loader merges all that it finds in one."""
    return folder / EXPERTS[part.name].folder if EXPERTS.keys() <= {part.name, *part.others} else folder
