"""A checkpoint as it is found: a file, shards with or without an index, a pipeline folder, the folder of a run.

To open one reads only headers, and a tensor is read when it is made: a model of any size can be listed and converted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmc.convert.safetensors_file import LazyTensor, read_tensors
from llmc.errors import ExportError
from llmc.files.json_text import read_object_if_there
from llmc.files.regular import check_file
from llmc.files.shards import read_index
from llmc.files.state_dict import Unreadable, load_saved, named_tensors
from llmc.files.words import some

PICKLED = (".pth", ".pt")
CHECKPOINTS = (".safetensors", *PICKLED)
INDEXES = "*.index.json"


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one network, unread, the metadata of its files (of equal keys the first), and its config.json."""

    folder: Path
    tensors: Mapping[str, LazyTensor]
    metadata: Mapping[str, str]
    config: Mapping[str, Any] | None

    def read(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors one after the other, each read when its turn comes."""
        for name, tensor in self.tensors.items():
            yield name, tensor.make()


@dataclass(frozen=True)
class PickledTensor:
    """A tensor of a .pth file; its values stay in the mapped file until they are touched."""

    tensor: Tensor

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def make(self) -> Tensor:
        return self.tensor

    def rows(self, start: int, stop: int) -> Tensor:
        return self.tensor[start:stop]


def open_checkpoint(path: Path, network: str = "transformer") -> Checkpoint:
    """Read the headers of the one checkpoint that `path` means; of a pipeline, the `network` of that name."""
    files = checkpoint_files(path, network)
    tensors: dict[str, LazyTensor] = {}
    metadata: dict[str, str] = {}
    owner: dict[str, Path] = {}
    for file in files:
        found, about = _read_pickle(file) if file.suffix in PICKLED else read_tensors(file)
        for name in found:
            if owner.setdefault(name, file) != file:
                raise ExportError(
                    f"{name} is in {owner[name].name} and in {file.name} of {file.parent}; a checkpoint holds each "
                    "tensor once; give one file, or take the other checkpoint out of the folder"
                )
        tensors |= found
        metadata = about | metadata
    if not tensors:
        raise ExportError(
            f"{', '.join(map(str, files))} holds no tensor; a checkpoint has some; copy or download it again"
        )
    folder = files[0].parent
    if path.is_dir():
        _check_listed(folder, tensors)
    return Checkpoint(folder, tensors, metadata, read_object_if_there(folder / "config.json", ExportError))


def _check_listed(folder: Path, tensors: Mapping[str, LazyTensor]) -> None:
    """Refuse a checkpoint that lacks what its index lists."""
    for index in folder.glob(INDEXES):
        if lost := sorted(read_index(index, ExportError).keys() - tensors.keys()):
            raise ExportError(
                f"{index} lists {some(lost)}, which no file beside it holds; a checkpoint has all that its index "
                "lists: copy or download it again"
            )


def checkpoint_files(path: Path, network: str = "transformer") -> list[Path]:
    """The files of the one checkpoint at `path`, or of the one below it."""
    if not path.exists():
        raise ExportError(f"{path} does not exist; a checkpoint is a file or a folder; check the path")
    if path.is_file():
        if path.suffix not in CHECKPOINTS:
            allowed = ", ".join(CHECKPOINTS)
            raise ExportError(f"{path} is no checkpoint; it must end in {allowed}; give such a file, or its folder")
        return [path]
    if not path.is_dir():
        check_file(path, ExportError)
    if files := _files_in(path):
        return files
    below = sorted({file.parent for file in path.rglob("*.safetensors") if _is_network(path, file.parent, network)})
    if len(below) == 1:
        return _files_in(below[0])
    found = "no checkpoint" if not below else f"{len(below)} checkpoints: {', '.join(map(str, below))}"
    raise ExportError(f"{path} holds {found}; exactly one can be read; give the folder or the file of the one you mean")


def _is_network(root: Path, folder: Path, network: str) -> bool:
    """Whether a folder below `root` counts: of a pipeline only `network` (`transformer_2` too), and nothing hidden."""
    if any(part.startswith(".") for part in folder.relative_to(root).parts):
        return False
    return folder.name.startswith(network) or not (folder.parent / "model_index.json").exists()


def _files_in(folder: Path) -> list[Path]:
    """The files that lie directly in a folder; an index says which they are."""
    indexes = sorted(folder.glob(INDEXES))
    if len(indexes) > 1:
        names = ", ".join(index.name for index in indexes)
        raise ExportError(
            f"{folder} holds several indexes: {names}; a checkpoint has one; keep only that in the folder"
        )
    if indexes:
        return sorted({folder / name for name in read_index(indexes[0], ExportError).values()})
    return sorted(folder.glob("*.safetensors")) or sorted(file for file in folder.iterdir() if file.suffix in PICKLED)


def _read_pickle(path: Path) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """Only a mapping of tensors, or that under `module`; nothing else in the file is run or read."""
    try:
        content = load_saved(path, ExportError)
    except Unreadable as error:
        raise ExportError(f"{path}: {error}; only tensors are read from a .pth; save the state dict in it") from error
    values = content if isinstance(content, dict) else {"all of it": content}
    if isinstance(values.get("module"), dict):  # as DeepSpeed and hyvideo save it, beside the state of a training
        values = values["module"]
    tensors = named_tensors(path, values, ExportError)
    return {name: PickledTensor(tensor) for name, tensor in tensors.items()}, {}
