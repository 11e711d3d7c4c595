"""The transformed float model: smoothing applied, nothing rounded; to look at what the methods did to the weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from llmc.convert.writer import write_checkpoint
from llmc.export.base import Exporter, FinishedPart, LazyTensor, kept, network_config
from llmc.export.folding import folded_tensors, is_smoothed_at_run_time

if TYPE_CHECKING:
    from llmc.layers.linear import QuantLinear


class Transformed(Exporter):
    """The float model after smoothing, with `affine_norm1/3` where a norm cannot absorb a scale."""

    name: Literal["transformed"] = "transformed"
    switch: ClassVar[str] = "save_trans"
    subfolder: ClassVar[str] = "transformed"
    accepts: ClassVar[frozenset[str]] = frozenset({"scale", "static"})

    def write(self, part: FinishedPart, folder: Path) -> Path:
        tensors = folded_tensors(part)
        for name, layer in part.layers.items():
            tensors |= transformed_tensors(name, layer)
        config = network_config(part)
        if is_smoothed_at_run_time(tensors):
            config["quant_method"] = "advanced_ptq"
        target = folder / part.name if part.others else folder
        write_checkpoint(target, tensors, "sharded", part.provenance, config=config)
        return folder


def transformed_tensors(name: str, layer: QuantLinear) -> dict[str, LazyTensor]:
    """Weight and bias of one layer in its new basis, in the model's own type."""
    dtype = layer.weight.dtype
    weight = LazyTensor(dtype, tuple(layer.weight.shape), lambda: layer.float_weight().to(dtype).cpu())
    bias = layer.float_bias()
    return {f"{name}.weight": weight} | ({} if bias is None else {f"{name}.bias": kept(bias.to(dtype))})
