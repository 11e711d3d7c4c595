"""What a run left for a later one is sealed: JSON, types, shapes and places must be those that were written.

Values of tensors are not looked at: there may be many gigabytes, and no value can break what reads it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from llmc.atomic import atomic_file
from llmc.errors import CalibrationError
from llmc.files.header import read_header
from llmc.files.json_text import MOST_BYTES, NotJson, parse_object, read_object
from llmc.files.regular import read_file

SEAL = "seal.json"


def seal_of(text: str, tensors: Mapping[str, Tensor]) -> str:
    """That of a text which goes with tensors."""
    places = [[name, str(tensor.dtype), list(tensor.shape)] for name, tensor in sorted(tensors.items())]
    return _digest([text, places])


def parse_sealed(text: str, seal: str | None, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The object that a text with tensors is, if both are what was written; a NotJson says what they are not."""
    if seal != seal_of(text, tensors):
        raise NotJson("it is not what was written")
    return parse_object(text.encode())


def sealed(content: Any) -> bytes:
    """A JSON text with its seal in it."""
    text = json.dumps(content)
    return json.dumps({"content": text, "seal": seal_of(text, {})}).encode()


def read_sealed(path: Path) -> Any:
    """The content of such a file."""
    found = read_object(path, CalibrationError)
    text = found.get("content")
    if not isinstance(text, str) or found.get("seal") != seal_of(text, {}):
        raise CalibrationError(f"{path} is not what was written; no other can be read: remove it")
    return json.loads(text)


def seal_folder(folder: Path) -> None:
    """Note what is in the folder."""
    with atomic_file(folder / SEAL) as file:
        file.write(json.dumps(_of_folder(folder)).encode())


def check_folder(folder: Path) -> None:
    """Refuse a folder in which not every file is what was written."""
    wanted, found = read_object(folder / SEAL, CalibrationError), _of_folder(folder)
    if odd := sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)):
        raise CalibrationError(f"{folder / odd[0]} is not what was written there; no other can be read: record again")


def _of_folder(folder: Path) -> dict[str, str]:
    """File -> what it should be known by."""
    files = (path for path in sorted(folder.rglob("*")) if path.name != SEAL and not path.is_dir())
    return {path.relative_to(folder).as_posix(): _of_file(path) for path in files}


def _of_file(path: Path) -> str:
    if path.suffix != ".safetensors":
        return hashlib.sha256(read_file(path, MOST_BYTES, CalibrationError)).hexdigest()
    header = read_header(path, CalibrationError)
    places = [[name, each.dtype, each.shape, each.start] for name, each in header.tensors.items()]
    return _digest([places, dict(header.metadata)])


def _digest(told: Any) -> str:
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()
