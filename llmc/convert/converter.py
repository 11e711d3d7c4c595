"""A checkpoint from one naming scheme to the other, with LoRAs merged into it or not, and its config.json translated.

Everything is planned from headers alone and refused then, if it must be; values are read, and changed, one tensor at a
time while they are written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llmc.convert.checkpoint import CHECKPOINTS, Checkpoint, open_checkpoint
from llmc.convert.fuse import bases_of
from llmc.convert.lora import Lora, with_loras
from llmc.convert.model_types import MODEL_TYPES, Direction, naming_of
from llmc.convert.safetensors_file import LazyTensor
from llmc.convert.writer import STEM, Layout, Suffix, is_replaced, plan_files, write_checkpoint
from llmc.errors import ExportError
from llmc.lock import held

NAMING = "llmc_naming"  # metadata: of several namings of ours, the one that the source had


@dataclass(frozen=True)
class Conversion:
    """What would be written: nothing of it is read before it is."""

    source: Checkpoint
    tensors: Mapping[str, LazyTensor]
    config: Mapping[str, Any] | None
    metadata: Mapping[str, str]
    omitted: Mapping[str, str]  # name -> what it is

    def renames(self) -> list[tuple[tuple[str, ...], str]]:
        """Of each tensor to write, what it is made of; nothing, if it is no tensor of the source."""
        names = {id(tensor): name for name, tensor in self.source.tensors.items()}
        return [(tuple(_origins(tensor, names)), name) for name, tensor in self.tensors.items()]


def plan_conversion(
    source: Path, direction: Direction | None, model_type: str = "wan_dit", loras: Sequence[Lora] = ()
) -> Conversion:
    """Read the headers of `source` and say what becomes of every tensor, or refuse; without a direction names stay."""
    family = MODEL_TYPES[model_type]
    checkpoint = open_checkpoint(source, family.folder)
    metadata = dict(checkpoint.metadata)
    tensors, config = checkpoint.tensors, checkpoint.config
    omitted: Mapping[str, str] = {}
    if direction is None:
        known = [naming for naming in family.namings.values() if naming.knows(tensors)]
        return Conversion(checkpoint, with_loras(tensors, loras, known), config, metadata, omitted)
    label, naming = naming_of(tensors, family, direction, metadata.get(NAMING))
    tensors = with_loras(tensors, loras, [naming] if naming.knows(tensors) else [])
    if direction == "backward":
        tensors = naming.to_original(tensors)
        config = None if config is None else family.config_backward(config)
        if naming_of(tensors, family, "forward")[0] != label:  # the way back could not tell
            metadata[NAMING] = label
    else:
        omitted = naming.omitted(tensors)
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        tensors = naming.to_ours(tensors)
        config = None if config is None else family.config_forward(config, shapes)
        metadata.pop(NAMING, None)
    return Conversion(checkpoint, tensors, config, metadata, omitted)


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
    """Write the tensors and the translated config.json, or refuse; returns the files."""
    if output.resolve() == conversion.source.folder.resolve():
        raise ExportError(f"{output} is the folder of the source; the output needs its own; give another with -o")
    if output.exists() and not output.is_dir():
        raise ExportError(f"{output} is a file; the output is a folder; give a folder with -o")
    tensors = conversion.tensors
    files = plan_files(tensors, layout, stem, suffix, max_shard_tensors=max_shard_tensors)
    with held(output, "-o"):
        _check_contents(output, files, tensors, stem, suffix, force)
        return write_checkpoint(
            output,
            tensors,
            layout,
            conversion.metadata,
            stem=stem,
            suffix=suffix,
            max_shard_tensors=max_shard_tensors,
            config=conversion.config,
        )


def _check_contents(
    output: Path, files: Iterable[str], tensors: Mapping[str, LazyTensor], stem: str, suffix: Suffix, force: bool
) -> None:
    """Refuse a folder that holds what would be replaced, and was not to be, or what would stay beside."""
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


def _origins(tensor: LazyTensor, names: Mapping[int, str]) -> Iterable[str]:
    if id(tensor) in names:
        return [names[id(tensor)]]
    return [name for base in bases_of(tensor) for name in _origins(base, names)]


def _holds_same(folder: Path, found: list[str], files: Iterable[str], tensors: Mapping[str, LazyTensor]) -> bool:
    """Whether a folder holds an earlier run of the same conversion: the same files, and the same headers in them."""
    if {name for name in found if not name.endswith(".json")} != set(files):
        return False
    return _headers(open_checkpoint(folder).tensors) == _headers(tensors)


def _headers(tensors: Mapping[str, LazyTensor]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    return {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
