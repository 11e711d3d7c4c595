"""MindIE-SD: the linears of a network as its `quantize` reads them, one file of weights and one that describes it.

It replaces linears of the float model, which it loads from elsewhere, and reads nothing else of the export: so no
smoothing may hide in a float tensor. Each smoothed linear has a `div.mul_scale` that its input is multiplied by.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import AfterValidator, BeforeValidator, Field

from llmc.convert.writer import write_checkpoint, write_json
from llmc.export.base import Exporter, Linears
from llmc.export.mindie.attention import attention_problem, attention_tensors, computed_attention
from llmc.export.mindie.names import (
    RuntimeLinear,
    fused_names,
    network_folder,
    runtime_linears,
    runtime_tensors,
    table_of,
)
from llmc.export.mindie.policy import POLICY, loading_code, policy, step_grids
from llmc.export.mindie.types import (
    READ_BY_2_3,
    TYPES,
    RunDtype,
    Runtime,
    Soc,
    TypeName,
    Version,
    as_named,
    layer_problem,
    type_of,
)
from llmc.export.part import FinishedPart, LazyTensor, kept, unquantized_tensors
from llmc.layers.target import EVERY_CARRIER, Carrier
from llmc.numerics.attention_spec import AttentionSpec
from llmc.numerics.spec import LayerSpec, ScaleDtype
from llmc.renames import Original, Renames

if TYPE_CHECKING:
    from llmc.layers.linear import QuantLinear

MODE = 0o640  # its reader refuses files that others may read, or the group may write
FLOAT = "FLOAT"


def _one_file(size: int) -> int:
    if size != 0:
        raise ValueError(
            f"MindIE-SD finds one file, by its name, and part_file_size {size} would give several; write 0"
        )
    return size


class MindIE(Exporter):
    """MindIE-SD on Ascend NPUs: `quant_model_weight_*.safetensors` and its description, in its repositories' names."""

    name: Literal["mindie"] = "mindie"
    mindie_version: Annotated[Version, BeforeValidator(as_named)] = Field(
        3,
        description="3: MindIE-SD 3.0; 2026-07: its state of July 2026, which reads fp4 weights two a byte; '2.3': the "
        "last that has int8 attention",
    )
    soc: Soc = Field("a2", description="a2, a3: Atlas A2 and A3, int8 and int4; a5: Ascend 950, also microscaling")
    dtype: RunDtype = Field("bf16", description="the type that `quantize` is called with; scales are exact in it")
    part_file_size: Annotated[int, AfterValidator(_one_file)] = Field(
        0, description="0, one file: msModelSlim's key; MindIE-SD cannot read several"
    )
    accepts: ClassVar[frozenset[str]] = frozenset({"scale", "static", "steps", "attention"})
    no_cross_attention: ClassVar[str | None] = "MindIE quantizes attention of tokens with themselves alone"

    @property
    def runtime(self) -> Runtime:
        """What will read the files."""
        return Runtime(self.mindie_version, self.soc, self.dtype)

    @property
    def multiplier_dtype(self) -> ScaleDtype:
        return self.runtime.scale_dtype

    def problems(self, spec: LayerSpec, left: frozenset[str]) -> list[str]:
        problems = super().problems(spec, left)
        if spec == LayerSpec():
            return problems
        found = type_of(spec, "steps" in left)
        if found is None:
            known = "; ".join(f"{name}: {quant_type}" for name, quant_type in TYPES.items())
            return [*problems, f"it has no type for {spec}; there are {known}"]
        chips = TYPES[found].chips
        if self.soc not in chips:
            problems.append(f"{found} runs on {' and '.join(sorted(chips))} only; found `soc: {self.soc}`")
        if self.mindie_version == "2.3" and found not in READ_BY_2_3:
            problems.append(f"MindIE-SD 2.3 does not know {found}, but {', '.join(sorted(READ_BY_2_3))}")
        return problems

    def attention_problem(self, spec: AttentionSpec) -> str | None:
        return attention_problem(spec, self.mindie_version, self.soc)

    def computed_attention(self, spec: AttentionSpec) -> AttentionSpec:
        return computed_attention(spec, self.runtime.scale_dtype)

    def multiples(self, spec: LayerSpec) -> tuple[int, int]:
        found = type_of(spec)
        return (1, 1) if found is None else TYPES[found].multiples.get(self.mindie_version, (1, 1))

    def computed(self, spec: LayerSpec) -> LayerSpec:
        found = type_of(spec)
        return spec if found is None else TYPES[found].computed(spec, self.runtime)

    def carries(self, spec: LayerSpec) -> frozenset[Carrier]:
        found = type_of(spec)
        return EVERY_CARRIER if found is None or TYPES[found].multiplies else frozenset()

    def layer_problems(self, linears: Linears, renames: Mapping[str, Renames], original: Original) -> list[str]:
        table = table_of(renames, original)
        if not table:
            return ["none has a known name in the repository that MindIE runs; leave this target out"]
        problems = [
            f"{name} {problem}"
            for name, (spec, layer) in linears.items()
            if (found := type_of(spec)) is not None and (problem := layer_problem(found, layer)) is not None
        ]
        shapes = {f"{name}.weight": (layer.out_features, layer.in_features) for name, (_, layer) in linears.items()}
        for target, sources in fused_names(table, shapes).items():
            example: dict[str, str] = {}  # of each grid
            for source in sources:
                example.setdefault(str(linears[source][0]), source)
            if len(example) > 1:
                grids = "; ".join(f"{source}: {spec}" for spec, source in example.items())
                problems.append(
                    f"{', '.join(sources)} are one linear there, {target}, and need one grid; found {grids}"
                )
        return problems

    def write(self, part: FinishedPart, folder: Path) -> Path:
        linears = list(runtime_linears(part))
        types = {linear.name: type_of_layer(linear.first) for linear in linears}
        tensors = runtime_tensors(part, float_tensors(part))
        says = dict.fromkeys(tensors, FLOAT)
        for linear in linears:
            own = linear_tensors(linear, types[linear.name], self.runtime)
            tensors |= own
            says |= {name: said(name, types[linear.name]) for name in own}
        attended, attention_says = attention_tensors(part.attentions, table_of(part.renames, part.original))
        tensors, says = tensors | attended, says | attention_says
        quant_type = model_type(part)
        target, description = folder / network_folder(part), description_file(quant_type)
        files = write_checkpoint(
            target, tensors, "single", part.provenance, stem=f"quant_model_weight_{quant_type.lower()}", mode=MODE
        )
        for stale in {*target.glob("quant_model_*")} - {*files, target / description}:  # of another type
            stale.unlink()
        write_json(target / description, {"model_quant_type": quant_type, **says}, MODE)
        (target / POLICY).unlink(missing_ok=True)
        if (grids := step_grids(part.layers.values())) is not None:
            write_json(target / POLICY, policy(grids), MODE)
        return folder

    def about(self, parts: Sequence[FinishedPart]) -> dict[str, str]:
        return {
            "scheme": " and ".join(dict.fromkeys(model_type(part) for part in parts)),
            "mindie_version": str(self.mindie_version),
            "soc": self.soc,
            "dtype": self.dtype,
        }

    def usage(self, parts: Sequence[FinishedPart]) -> str:
        text = ["Load the float model from its own repository, then replace its linears before it goes to the NPU:"]
        for part in parts:
            description = (Path(network_folder(part)) / description_file(model_type(part))).as_posix()
            grids = step_grids(part.layers.values())
            code = loading_code(description, self.dtype, self.mindie_version, grids)
            text.append(f"```python\n{code}\n```")
        text.append(
            "The files are for MindIE-SD, which refuses them if others may read them: their mode is 0640; keep it when "
            "you copy them (`cp -p`). Tensors that its description calls FLOAT are not read from here."
        )
        return "\n\n".join(text) + "\n"


def type_of_layer(layer: QuantLinear) -> TypeName:
    """The type of a layer that was quantized."""
    found = type_of(layer.spec, steps=layer.state.steps is not None)
    assert found is not None, "refused before calibration"
    return found


def model_type(part: FinishedPart) -> str:
    """The type of most layers, which names the files, though each tensor says its own; of none, its word for it."""
    types = Counter(type_of_layer(layer) for layer in part.layers.values() if layer.state.rounded is not None)
    return types.most_common(1)[0][0] if types else "NO_QUANT"


def description_file(quant_type: str) -> str:
    """The file that is given to MindIE."""
    return f"quant_model_description_{quant_type.lower()}.json"


def said(name: str, quant_type: TypeName) -> str:
    """What the description says of a tensor of a quantized linear."""
    return FLOAT if name.endswith((".bias", ".mul_scale")) else quant_type


def linear_tensors(linear: RuntimeLinear, name: TypeName, runtime: Runtime) -> dict[str, LazyTensor]:
    """All that is stored of one linear, by full names."""
    multiplier, bias = linear.multiplier(), linear.bias()
    prefix = linear.name if multiplier is None else f"{linear.name}.linear"
    tensors = {f"{prefix}.{leaf}": tensor for leaf, tensor in TYPES[name].tensors(linear, runtime).items()}
    if bias is not None:
        tensors[f"{prefix}.bias"] = kept(bias.to(bias_dtype(name, runtime)))
    if multiplier is not None:
        tensors[f"{linear.name}.div.mul_scale"] = kept(multiplier.to(getattr(torch, runtime.scale_dtype)))
    return tensors


def bias_dtype(name: TypeName, runtime: Runtime) -> torch.dtype:
    """float32, which every class takes, but for products of float activations in half precision."""
    return torch.float16 if runtime.dtype == "fp16" and TYPES[name].act is None else torch.float32


def float_tensors(part: FinishedPart) -> dict[str, LazyTensor]:
    """What stays float, as it was: MindIE reads only from their names that they are not quantized."""
    tensors = dict(unquantized_tensors(part))
    for name, layer in part.layers.items():
        if layer.state.rounded is None:
            tensors |= {f"{name}.weight": layer.master} | ({} if layer.bias is None else {f"{name}.bias": layer.bias})
    return {name: kept(tensor) for name, tensor in tensors.items()}
