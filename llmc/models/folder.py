"""Whether a pipeline folder is whole, told before a model is loaded: its components are there and can be read."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from llmc.errors import AdapterError
from llmc.models.base import PipelineIndex

MAX_HEADER_BYTES = 100_000_000  # of a safetensors file; its own limit
INDEX = "*.safetensors.index.json"  # says which file holds which tensor


def folder_problems(index: PipelineIndex, elsewhere: Collection[str] = ()) -> Iterator[str]:
    """What is wrong with the components of a diffusers folder, each in one sentence; some may be read `elsewhere`."""
    for name in sorted(index.components.keys() - index.files.keys() - set(elsewhere)):
        folder = index.folder / name
        if not folder.is_dir() or not any(folder.iterdir()):  # libraries would make up a tokenizer that knows no word
            yield f"{index.folder} has no {name}/, which its model_index.json names; copy or download it to there"
            continue
        weights = sorted(folder.glob("*.safetensors"))
        if weights and not (folder / "config.json").is_file():
            yield f"{folder} has weights, but no config.json that says of what; copy or download it to there"
        for path in sorted({*folder.glob("*config.json"), *folder.glob(INDEX)}):
            yield from _text_problems(path)
        for path in weights:
            yield from _weight_problems(path)


def _text_problems(path: Path) -> Iterator[str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        yield f"{path} is no JSON: {error}; copy or download it again"
        return
    if not isinstance(found, dict):
        yield f"{path} holds a {type(found).__name__}, not keys with values; copy or download it again"
        return
    shards = found.get("weight_map", {}).values() if path.match(INDEX) else ()
    if missing := sorted({name for name in shards if not (path.parent / name).is_file()}):
        yield f"{path} names {', '.join(missing)}, not there; copy or download them to beside it"


def _weight_problems(path: Path) -> Iterator[str]:
    try:
        tensor_shapes(path)
    except AdapterError as error:
        yield str(error)


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors of a safetensors file, which must be whole; no values are read."""
    header = file_header(path)
    header.pop("__metadata__", None)
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
    size = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if size != (there := path.stat().st_size):
        raise AdapterError(
            f"{path} is broken: it has {there} bytes, its header asks for {size}; copy or download it again"
        )
    return {name: tuple(entry["shape"]) for name, entry in header.items()}


def file_header(path: Path) -> dict[str, Any]:
    """What stands at the head of a safetensors file: of each tensor its type, shape and place, and `__metadata__`."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        text = stream.read(length) if length <= MAX_HEADER_BYTES else b""
    try:
        header = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError):
        header = None
    if not isinstance(header, dict):
        raise AdapterError(f"{path} is broken: it has no safetensors header; copy or download it again")
    return header
