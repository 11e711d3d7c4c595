"""ComfyUI: one file in the model's original names, each quantized layer in a form and with a description of its own.

Its kernels quantize int8 activations per token by themselves, fp8 ones with the scale of the file: without one they are
rounded as they are, at a scale of 1. Some of them rotate inputs, and those of nvfp4 alone multiply them, so that else
smoothing must fold into the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field

from llmc.convert.writer import write_checkpoint
from llmc.export.base import Exporter
from llmc.export.card import inline_code
from llmc.export.comfyui.forms import FORMS, SEEN, form_of
from llmc.export.comfyui.layers import layer_tensors, older_tensors
from llmc.export.comfyui.names import in_original_names
from llmc.export.comfyui.readback import check_written
from llmc.export.folding import absorbed_tensors
from llmc.export.part import FinishedPart, kept
from llmc.layers.target import EVERY_CARRIER, Carrier
from llmc.numerics.spec import LayerSpec
from llmc.renames import ORIGINAL

if TYPE_CHECKING:
    from llmc.layers.transforms import Rotation

FLOAT = LayerSpec()
OLDER = "float8_e4m3fn"  # the only format of the older form


class ComfyUI(Exporter):
    """One file for ComfyUI, in the model's original names."""

    name: Literal["comfyui"] = "comfyui"
    format: Literal["comfy_quant", "scaled_fp8"] = Field(
        "comfy_quant",
        description="comfy_quant: each layer says how it is quantized; scaled_fp8: the older form, fp8 alone",
    )
    codebook: Literal["standard", "own"] = Field(
        "standard",
        description="levels of codebook4 weights; standard: those that the fastest kernels know; own: fitted by GPTQ "
        "to the weights and inputs of each group of linears",
    )
    names: ClassVar[str | None] = ORIGINAL
    flat_names: ClassVar[Mapping[str, str]] = {"format": "comfy_format"}
    subfolder: ClassVar[str] = "comfyui"
    accepts: ClassVar[frozenset[str]] = frozenset({"scale", "rotate_regular", "static"})

    def problems(self, spec: LayerSpec, left: frozenset[str]) -> list[str]:
        problems = super().problems(spec, left)
        if spec == FLOAT:
            return problems
        form = form_of(spec)
        if form is None:
            problems.append(f"it takes {'; '.join(map(str, FORMS))}; found {spec}")
        elif self.format == "scaled_fp8" and form.format != OLDER:
            problems.append(f"scaled_fp8 holds fp8_e4m3 weights alone; found {spec}; write `format: comfy_quant`")
        elif form.rotation == "must" and "rotate_regular" not in left:
            problems.append(
                f"kernels of {form.format}, which {spec} is, always rotate their inputs; put `{{name: Hadamard, "
                "matrix: regular}` among the methods, after smoothing and before what rounds"
            )
        return problems

    def scheme_of(self, spec: LayerSpec) -> str | None:
        """The older form says once for the whole file whether activations are quantized."""
        if self.format == "comfy_quant" or spec.weight is None:
            return None
        return f"act {spec.act or 'float'}"

    def multiples(self, spec: LayerSpec) -> tuple[int, int]:
        form = form_of(spec)
        return (1, 1) if form is None else form.multiples

    def computed(self, spec: LayerSpec) -> LayerSpec:
        form = form_of(spec)
        if form is None or spec.weight is None:
            return spec
        own = {"fits": True} if self.codebook == "own" and "fits" in type(spec.weight.format).model_fields else {}
        weight = spec.weight.model_copy(update={"format": spec.weight.format.model_copy(update=own)})
        return form.computed(spec.model_copy(update={"weight": weight}))

    def carries(self, spec: LayerSpec) -> frozenset[Carrier]:
        form = form_of(spec)
        return EVERY_CARRIER if form is not None and form.multiplies_inputs else super().carries(spec)

    def rotation(self, spec: LayerSpec) -> Rotation:
        form = form_of(spec)
        return "never" if form is None or self.format == "scaled_fp8" else form.rotation

    def write(self, part: FinishedPart, folder: Path) -> Path:
        tensors = absorbed_tensors(part)
        absorbed = frozenset(tensors)
        for name, layer in part.layers.items():
            new = self.format == "comfy_quant"
            tensors |= layer_tensors(name, layer, absorbed) if new else older_tensors(name, layer)
        tensors = in_original_names(part, tensors)
        if self.format == "scaled_fp8":
            tensors["scaled_fp8"] = kept(marker(part))
        (file,) = write_checkpoint(folder, tensors, "single", part.provenance, stem=stem_of(part))
        check_written(file, part)
        return folder

    def about(self, parts: Sequence[FinishedPart]) -> dict[str, str]:
        return {"scheme": self.format}

    def usage(self, parts: Sequence[FinishedPart]) -> str:
        files = " and ".join(inline_code(f"{stem_of(part)}.safetensors") for part in parts)
        specs = [layer.spec for part in parts for layer in part.layers.values()]
        least = {form.format: form.since for form in map(form_of, specs) if form is not None}
        newer = [f"{inline_code(name)} {since}" for name, since in least.items() if since != SEEN]
        more = f" Some layers need a version: {', '.join(newer)}." if newer else ""
        return (
            f"Put {files} into `models/diffusion_models/` of ComfyUI. Encoders and autoencoder are those of the "
            f"original model.{more}\n"
        )


def marker(part: FinishedPart) -> torch.Tensor:
    """What makes a file one of the older form: with two elements, weights are dequantized before they multiply."""
    weights_only = all(layer.spec.act is None for layer in part.layers.values())
    return torch.zeros(2 if weights_only else 0, dtype=torch.float8_e4m3fn)


def stem_of(part: FinishedPart) -> str:
    """The name of a network's file: ComfyUI lists files by name, so that model and formats stand in it."""
    formats = {layer.spec.weight.format.name for layer in part.layers.values() if layer.spec.weight is not None}
    return "-".join([part.source.resolve().name, part.name, *(sorted(formats) or ["float"])])
