"""A checkpoint from one naming scheme to another: tensors renamed, never changed, and their config.json translated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from llmc.convert.checkpoint import CHECKPOINTS, Checkpoint, open_checkpoint
from llmc.convert.config_keys import to_diffusers, to_original
from llmc.convert.rename import Renamer
from llmc.convert.safetensors_file import LazyTensor
from llmc.convert.writer import STEM, Layout, Suffix, is_replaced, plan_files, write_checkpoint
from llmc.errors import ExportError
from llmc.models.base import Renames
from llmc.models.wan import LIGHTX2V

# LightX2V's words: its own names are where one starts, so towards them is backward
Direction: TypeAlias = Literal["backward", "forward"]
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class ModelType:
    """How one family's names and config keys translate; diffusers is on the left."""

    renames: Renames
    config_backward: Callable[[Mapping[str, Any]], dict[str, Any]]
    config_forward: Callable[[Mapping[str, Any], Shapes], dict[str, Any]]  # shapes by LightX2V's names


MODEL_TYPES: Mapping[str, ModelType] = {"wan_dit": ModelType(LIGHTX2V, to_original, to_diffusers)}


@dataclass(frozen=True)
class Conversion:
    """What would be written: nothing of it is read before it is."""

    source: Checkpoint
    renamed: Mapping[str, str]  # old name -> new name
    config: Mapping[str, Any] | None

    @property
    def tensors(self) -> dict[str, LazyTensor]:
        return {new: self.source.tensors[old] for old, new in self.renamed.items()}


def plan_conversion(source: Path, direction: Direction, model_type: str = "wan_dit") -> Conversion:
    """Read the headers of `source` and translate every name, or refuse."""
    family = MODEL_TYPES[model_type]
    checkpoint = open_checkpoint(source)
    renamer = Renamer(family.renames)
    config = checkpoint.config
    if direction == "backward":
        renamed = renamer.forward_all(checkpoint.tensors)
        config = None if config is None else family.config_backward(config)
    else:
        renamed = renamer.backward_all(checkpoint.tensors)
        shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
        config = None if config is None else family.config_forward(config, shapes)
    return Conversion(checkpoint, renamed, config)


def write_conversion(
    conversion: Conversion,
    output: Path,
    layout: Layout = "sharded",
    *,
    stem: str = STEM,
    suffix: Suffix = ".safetensors",
    max_shard_tensors: int | None = None,
    force: bool = False,
) -> list[Path]:
    """Write the renamed tensors and the translated config.json, or refuse; returns the files."""
    tensors, source = conversion.tensors, conversion.source
    files = plan_files(tensors, layout, stem, suffix, max_shard_tensors=max_shard_tensors)
    if output.resolve() == source.folder.resolve():
        raise ExportError(f"{output} is the folder of the source; the output needs its own; give another with -o")
    if output.exists() and not output.is_dir():
        raise ExportError(f"{output} is a file; the output is a folder; give a folder with -o")
    found = sorted(path.name for path in output.glob("[!.]*"))
    if found and not force and not _holds_same(output, found, files, tensors):
        names = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
        raise ExportError(
            f"{output} is not empty: {names}; only an empty folder, or one with the files of this same conversion, is "
            "written to; give another with -o, or replace the checkpoint that is there with --force"
        )
    beside = [name for name in found if name.endswith(CHECKPOINTS) and not is_replaced(name, stem, suffix)]
    if beside:
        raise ExportError(
            f"{output} holds {', '.join(beside)}, which would stay; a runtime reads every checkpoint file of a folder; "
            "move it away, or give another folder with -o"
        )
    return write_checkpoint(
        output,
        tensors,
        layout,
        source.metadata,
        stem=stem,
        suffix=suffix,
        max_shard_tensors=max_shard_tensors,
        config=conversion.config,
    )


def _holds_same(folder: Path, found: list[str], files: Iterable[str], tensors: Mapping[str, LazyTensor]) -> bool:
    """Whether a folder holds an earlier run of the same conversion: the same files, and the same headers in them."""
    if {name for name in found if not name.endswith(".json")} != set(files):
        return False
    return _headers(open_checkpoint(folder).tensors) == _headers(tensors)


def _headers(tensors: Mapping[str, LazyTensor]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    return {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
