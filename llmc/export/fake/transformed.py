"""The transformed float model: smoothing applied, nothing rounded; to look at what the methods did to the weights."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from llmc.convert.writer import STEM, write_checkpoint
from llmc.export.base import Exporter
from llmc.export.folding import folded_tensors, is_smoothed_at_run_time, transformed_tensors
from llmc.export.part import FinishedPart, network_config
from llmc.layers.target import Carrier
from llmc.numerics.spec import LayerSpec


class Transformed(Exporter):
    """The float model after smoothing, with `affine_norm1/3` where a norm cannot absorb a scale."""

    name: Literal["transformed"] = "transformed"
    switch: ClassVar[str] = "save_trans"
    subfolder: ClassVar[str] = "transformed"
    accepts: ClassVar[frozenset[str]] = frozenset({"scale", "static"})
    encoders: ClassVar[frozenset[str] | None] = None

    def carries(self, spec: LayerSpec) -> frozenset[Carrier]:
        return super().carries(spec) | {"modulated norm"}

    def write(self, part: FinishedPart, folder: Path) -> Path:
        tensors = folded_tensors(part)
        for name, layer in part.layers.items():
            tensors |= transformed_tensors(name, layer)
        config = network_config(part)
        if is_smoothed_at_run_time(tensors):
            config["quant_method"] = "advanced_ptq"
        target = folder / part.name if part.others else folder
        stem = STEM if part.is_denoiser else "model"
        write_checkpoint(target, tensors, "sharded", part.provenance, stem=stem, config=config)
        return folder
