"""A network read from a checkpoint of its own, in diffusers' names or the original release's; every key counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch

from llmc.convert.checkpoint import Checkpoint
from llmc.convert.config_keys import to_diffusers
from llmc.convert.rename import Renamer
from llmc.errors import ExportError
from llmc.models.base import Renames, StoredNetwork

SHOWN = 5  # names in one message


def network_config(checkpoint: Checkpoint, default: Mapping[str, Any]) -> dict[str, Any]:
    """Its configuration in diffusers' keys; `default` for a bare file."""
    shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    return to_diffusers(default if checkpoint.config is None else checkpoint.config, shapes)


def stored_network(
    path: Path, checkpoint: Checkpoint, config: Mapping[str, Any], wanted: Mapping[str, torch.Tensor], table: Renames
) -> StoredNetwork:
    """The tensors under the names of `wanted`, the network's own; the checkpoint has those, or their translation."""
    translated = Renamer(table).forward_all(wanted)
    own = checkpoint.tensors.keys() == wanted.keys()
    source_of = {name: name if own else translated[name] for name in wanted}
    missing = [there for there in source_of.values() if there not in checkpoint.tensors]
    unknown = sorted(checkpoint.tensors.keys() - set(source_of.values()))
    misfits = [
        f"{there} {tuple(checkpoint.tensors[there].shape)} instead of {tuple(wanted[name].shape)}"
        for name, there in source_of.items()
        if there in checkpoint.tensors and tuple(checkpoint.tensors[there].shape) != tuple(wanted[name].shape)
    ]
    problems = {"it lacks": missing, "it has besides": unknown, "of another shape are": misfits}
    lines = [f"  {what} {len(found)}: {', '.join(found[:SHOWN])}" for what, found in problems.items() if found]
    if lines:
        raise ExportError(
            "\n".join([f"{path} is not the network that its config describes:", *lines])
            + "\nevery tensor must be there once, in diffusers' names or the original ones; check path and model.type"
        )
    sizes: Counter[torch.dtype] = Counter()
    for tensor in checkpoint.tensors.values():
        sizes[tensor.dtype] += prod(tensor.shape)
    makers = {name: checkpoint.tensors[there].make for name, there in source_of.items()}
    return StoredNetwork(config, sizes.most_common(1)[0][0], makers)
