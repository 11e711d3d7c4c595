"""Whether a pipeline folder is whole, told before a model is loaded: its components are there and can be read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from llmc.errors import AdapterError
from llmc.files.header import read_header
from llmc.files.json_text import read_json, read_object
from llmc.files.regular import check_file
from llmc.files.shards import read_index
from llmc.models.index import PipelineIndex
from llmc.models.settings import check_settings

INDEX = "*.safetensors.index.json"  # says which file holds which tensor


def folder_problems(index: PipelineIndex, elsewhere: Collection[str] = ()) -> Iterator[str]:
    """What is wrong with the components of a diffusers folder, each in one sentence; some may be read `elsewhere`."""
    for name in sorted(index.components.keys() - index.files.keys() - set(elsewhere)):
        folder = index.folder / name
        if not folder.is_dir() or not any(folder.iterdir()):  # libraries would make up a tokenizer that knows no word
            yield f"{index.folder} has no {name}/, which its model_index.json names; copy or download it to there"
            continue
        if any(folder.glob("*.safetensors")) and not (folder / "config.json").is_file():
            yield f"{folder} has weights, but no config.json that says of what; copy or download it to there"
        yield from component_problems(folder)
    for place in index.files.values():
        if place.is_dir():
            yield from component_problems(place)


def component_problems(folder: Path) -> Iterator[str]:
    """Which of its files cannot be read."""
    for path in sorted(path for path in folder.iterdir() if not path.is_dir()):
        yield from _problems(_reader(path), path)


def _reader(path: Path) -> Callable[[Path, type[AdapterError]], object]:
    """What reads all of a component's file that can be read before it is loaded."""
    if path.suffix == ".safetensors":
        return read_header
    if path.match(INDEX):
        return read_index
    if path.name == "config.json":
        return _read_settings
    if path.match("*config.json"):
        return read_object
    return read_json if path.suffix == ".json" else check_file  # libraries would wait for a FIFO without end


def _read_settings(path: Path, refusal: type[AdapterError]) -> None:
    check_settings(read_object(path, refusal))


def _problems(read: Callable[[Path, type[AdapterError]], object], path: Path) -> Iterator[str]:
    try:
        read(path, AdapterError)
    except AdapterError as error:
        yield str(error)


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors of a safetensors file, which must be whole; no values are read."""
    return {name: tensor.shape for name, tensor in read_header(path, AdapterError).tensors.items()}
