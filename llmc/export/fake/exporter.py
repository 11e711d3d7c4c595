"""A pipeline that stock diffusers loads: the rounded weights in the original basis, in float.

Nothing is lost when no runtime knows our transforms: scales and rotations are undone, low-rank branches added back. It
computes what the quantized weights do; activations are not quantized in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from llmc.convert.writer import STEM, write_checkpoint
from llmc.export.base import Exporter
from llmc.export.part import FinishedPart, LazyTensor, kept, network_config, unquantized_tensors
from llmc.export.pipeline_folder import link_pipeline
from llmc.layers.target import EVERY_CARRIER, Carrier
from llmc.numerics.spec import LayerSpec

if TYPE_CHECKING:
    from llmc.layers.linear import QuantLinear


class FakeQuant(Exporter):
    """The rounded weights, dequantized into the original float model."""

    name: Literal["fake_quant"] = "fake_quant"
    switch: ClassVar[str] = "save_fake"
    subfolder: ClassVar[str] = "fake_quant"
    accepts: ClassVar[frozenset[str]] = frozenset(
        {"scale", "rotate", "rotate_regular", "lowrank", "static", "steps", "attention"}
    )
    encoders: ClassVar[frozenset[str] | None] = None

    def source_problem(self, folder: Path, released: bool) -> str | None:
        if not released:
            return None
        return (
            f"it writes a whole pipeline of diffusers, and {folder} is a release in another layout; leave it out, or "
            "give model.path such a pipeline and model.transformer the release"
        )

    def carries(self, spec: LayerSpec) -> frozenset[Carrier]:
        return EVERY_CARRIER

    def write(self, part: FinishedPart, folder: Path) -> Path:
        inside = part.folder or part.name
        link_pipeline(part.source, folder, without={inside, *part.others})
        tensors = {name: kept(tensor) for name, tensor in unquantized_tensors(part).items()}
        for name, layer in part.layers.items():
            tensors |= restored_tensors(name, layer)
        stem = STEM if part.is_denoiser else "model"
        config = network_config(part)
        write_checkpoint(folder / inside, tensors, "sharded", part.provenance, stem=stem, config=config)
        return folder

    def usage(self, parts: Sequence[FinishedPart]) -> str:
        return "`diffusers.DiffusionPipeline.from_pretrained` loads this folder; its activations are not quantized.\n"


def restored_tensors(name: str, layer: QuantLinear) -> dict[str, LazyTensor]:
    """Weight and bias of one layer in the original basis; float32, since a rounded weight is not exact in less."""
    shape = (layer.out_features, layer.in_features)
    tensors = {f"{name}.weight": LazyTensor(torch.float32, shape, lambda: layer.restored_weight().cpu())}
    bias = layer.restored_bias()
    return tensors if bias is None else tensors | {f"{name}.bias": kept(bias)}
