"""The weights of one network, from a checkpoint in our names or in its original's; every tensor counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch

from llmc.convert.checkpoint import Checkpoint, open_checkpoint
from llmc.convert.names import Known, Names
from llmc.convert.safetensors_file import LazyTensor, make_rows
from llmc.errors import ExportError
from llmc.files.json_text import FileObject
from llmc.models.networks import misfits, some
from llmc.models.wan_config import to_diffusers

PREFIXES = ("model.diffusion_model.", "diffusion_model.")  # of the network, in files that hold a whole pipeline


@dataclass(frozen=True)
class Cast:
    """A tensor in another type."""

    base: LazyTensor
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.base.shape)

    @property
    def bases(self) -> tuple[LazyTensor, ...]:
        return (self.base,)

    def make(self) -> torch.Tensor:
        return self.base.make().to(self.dtype)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return make_rows(self.base, start, stop).to(self.dtype)


def open_network(path: Path) -> Checkpoint:
    """The checkpoint of a network, which may be one among others in a single file."""
    checkpoint = open_checkpoint(path)
    for prefix in PREFIXES:
        own = {n.removeprefix(prefix): tensor for n, tensor in checkpoint.tensors.items() if n.startswith(prefix)}
        if own:
            return replace(checkpoint, tensors=own)
    return checkpoint


def network_config(checkpoint: Checkpoint, default: Mapping[str, Any]) -> dict[str, Any]:
    """Its configuration in diffusers' keys; `default` for a bare file."""
    shapes = {name: tuple(tensor.shape) for name, tensor in checkpoint.tensors.items()}
    config = default if checkpoint.config is None else checkpoint.config
    found = to_diffusers(config, shapes)
    return FileObject(found, config.path) if isinstance(config, FileObject) else found


def common_dtype(tensors: Mapping[str, LazyTensor]) -> torch.dtype:
    """The type of floats that most elements have; float32 where that is none to compute in."""
    sizes: Counter[torch.dtype] = Counter()
    for tensor in tensors.values():
        sizes[tensor.dtype] += prod(tensor.shape)
    found = sizes.most_common(1)[0][0] if sizes else torch.float32
    return found if found.is_floating_point and found.itemsize > 1 else torch.float32


def find_weights(
    path: Path,
    tensors: Mapping[str, LazyTensor],
    wanted: Mapping[str, torch.Tensor],
    naming: Names | None,
    unread: tuple[str, ...] = (),
) -> dict[str, LazyTensor]:
    """The tensors of the checkpoint at `path` under the names of `wanted`, which are the network's own. It has those or
    what `naming` makes of them, in floats; `unread` begin the names of what only other networks read."""
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(unread or "\0")}
    ours: dict[str, LazyTensor] = {name: Known(tensor) for name, tensor in wanted.items()}
    theirs = {} if naming is None else naming.to_original(ours)
    theirs = {name: tensor for name, tensor in theirs.items() if not name.startswith(unread or "\0")}
    translate = len(theirs.keys() & tensors.keys()) > len(ours.keys() & tensors.keys())
    lines = misfits(_shapes(tensors), _shapes(theirs if translate else ours))
    codes = [f"{n} {t.dtype}" for n, t in tensors.items() if not t.dtype.is_floating_point or t.dtype.itemsize == 1]
    if codes:
        lines.append(f"  it has codes, not floats, in {len(codes)}: {some(codes)}")
    if lines:
        raise ExportError(
            "\n".join([f"{path} does not fit the network that its config describes:", *lines])
            + "\n  Give the float weights of that very network, in its own names or those of the original release."
        )
    found = naming.to_ours(tensors) if translate and naming is not None else tensors
    return {name: found[name] for name in wanted}


def _shapes(tensors: Mapping[str, LazyTensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
