"""Safetensors files as a reader meets them: headers taken apart with nothing assumed, values one tensor at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: what the header says of it, and its values when they are asked for."""

    name: str
    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int  # byte in the file

    def read(self) -> Tensor:
        """The values, through the library that runtimes read with."""
        from safetensors import safe_open

        with safe_open(self.file, "pt") as opened:
            tensor: Tensor = opened.get_tensor(self.name)
            return tensor


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file: its tensors, or why they cannot be read."""

    path: Path
    entries: Mapping[str, Entry] = field(default_factory=dict)
    problem: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


def open_tensor_file(path: Path) -> TensorFile:
    """Read the header, and hold it against the length of the file."""
    if not path.is_file():
        return TensorFile(path, problem=f"{path.name} is no file: it is a folder, or a link that leads nowhere")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if 8 + length <= size else b""
    header = parse_object(text)
    if header is None:
        return TensorFile(path, problem=f"{path.name} has no whole header: it is cut off, or no safetensors file")
    metadata = header.pop("__metadata__", {})
    entries, problems, end = {}, [], 0
    if not isinstance(metadata, dict):
        problems.append(f"{path.name} has a damaged header: its __metadata__ is no object")
        metadata = {}
    for name, about in header.items():
        if not _says_where(about):
            problems.append(f"{path.name} has a damaged header: nothing is said of {name}, or no type, shape and place")
            continue
        first, last = about["data_offsets"]
        end = max(end, last)
        dtype, shape = DTYPES.get(about["dtype"]), tuple(about["shape"])
        if dtype is None:
            problems.append(f"{name} is stored as {about['dtype']}, which is no type of a checkpoint")
        elif prod(shape) * dtype.itemsize != last - first:
            problems.append(f"{name} has {last - first} bytes, and a shape of {list(shape)} in {about['dtype']}")
        else:
            entries[name] = Entry(name, path, dtype, shape, 8 + length + first)
    if 8 + length + end != size:
        problems.insert(0, f"{path.name} has {size} bytes, and its header asks for {8 + length + end}: "
                           f"it is {'truncated' if size < 8 + length + end else 'too long'}")  # fmt: skip
    return TensorFile(path, entries, "; ".join(problems), metadata)


def _says_where(about: object) -> bool:
    """Whether a row of a header has a type, a shape and two offsets."""
    match about:
        case {"dtype": str(), "shape": list() as shape, "data_offsets": [int(), int()]}:
            return all(isinstance(length, int) for length in shape)
    return False


def parse_object(text: bytes | str) -> dict[str, Any] | None:
    """The JSON object in `text`, if it is one."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, if there is one."""
    return parse_object(path.read_bytes()) if path.is_file() else None


def file_digest(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    """sha256 of a tensor's values in float32, row by row."""
    return hashlib.sha256(tensor.float().contiguous().cpu().numpy().data).hexdigest()
