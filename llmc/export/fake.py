"""A pipeline that stock diffusers loads: the rounded weights in the original basis, in float.

Nothing is lost when no runtime knows our transforms: scales and rotations are undone, low-rank branches added back. It
computes what the quantized weights do; activations are not quantized in it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from llmc.convert.writer import write_checkpoint
from llmc.export.base import Exporter, FinishedPart, LazyTensor, kept, network_config, unquantized_tensors

if TYPE_CHECKING:
    from llmc.layers.linear import QuantLinear


class FakeQuant(Exporter):
    """The rounded weights, dequantized into the original float model."""

    name: Literal["fake_quant"] = "fake_quant"
    switch: ClassVar[str] = "save_fake"
    subfolder: ClassVar[str] = "fake_quant"
    accepts: ClassVar[frozenset[str]] = frozenset({"scale", "rotate", "lowrank", "static"})
    online_scale: ClassVar[bool] = True

    def write(self, part: FinishedPart, folder: Path) -> Path:
        link_pipeline(part.source, folder, without={part.name, *part.others})
        tensors = {name: kept(tensor) for name, tensor in unquantized_tensors(part).items()}
        for name, layer in part.layers.items():
            tensors |= restored_tensors(name, layer)
        write_checkpoint(folder / part.name, tensors, "sharded", part.provenance, config=network_config(part))
        return folder

    def usage(self, parts: Sequence[FinishedPart]) -> str:
        return "`diffusers.DiffusionPipeline.from_pretrained` loads this folder; its activations are not quantized.\n"


def restored_tensors(name: str, layer: QuantLinear) -> dict[str, LazyTensor]:
    """Weight and bias of one layer in the original basis; float32, since a rounded weight is not exact in less."""
    tensors = {
        f"{name}.weight": LazyTensor(torch.float32, tuple(layer.weight.shape), lambda: layer.restored_weight().cpu())
    }
    return tensors if layer.bias is None else tensors | {f"{name}.bias": kept(layer.bias)}


def link_pipeline(source: Path, folder: Path, without: Set[str]) -> None:
    """Everything of a pipeline folder but some components; hard links where the file system can: nothing changes."""
    for file in sorted(source.rglob("*")):
        inside = file.relative_to(source)
        if not file.is_file() or inside.parts[0] in without or inside.parts[0].startswith("."):
            continue
        target = folder / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(file.resolve(), target)
        except OSError:  # another file system
            shutil.copyfile(file, target)
