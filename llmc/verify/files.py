"""Safetensors files as a reader meets them: headers taken apart with nothing assumed, values one tensor at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmc.errors import ExportError
from llmc.files.header import scan_header
from llmc.files.json_text import NotJson, parse_object, read_object_if_there
from llmc.files.regular import check_file, open_file

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
        from safetensors import SafetensorError, safe_open

        check_file(self.file, ExportError)
        try:
            with safe_open(self.file, "pt") as opened:
                tensor: Tensor = opened.get_tensor(self.name)
        except SafetensorError as error:
            raise ExportError(f"{self.file} cannot be read by safetensors: {error}; write or copy it again") from error
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
    header = scan_header(path, ExportError)
    problems = [f"{path.name} {problem}" for problem in header.problems]
    entries = {}
    for name, tensor in header.tensors.items():
        if (dtype := DTYPES.get(tensor.dtype)) is not None:
            entries[name] = Entry(name, path, dtype, tensor.shape, tensor.start)
        elif not problems:
            problems.append(f"{name} is stored as {tensor.dtype}, which is no type of a checkpoint")
    return TensorFile(path, entries, "; ".join(problems), header.metadata)


def parse_keys(text: bytes | str) -> dict[str, Any] | None:
    """The JSON object in `text`, if it is one."""
    try:
        return parse_object(text.encode() if isinstance(text, str) else text)
    except NotJson:
        return None


def read_keys(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, if there is one that can be read."""
    try:
        return read_object_if_there(path, ExportError)
    except ExportError:
        return None


def file_digest(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    with open_file(path, ExportError) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    """sha256 of a tensor's values in float32, row by row."""
    return hashlib.sha256(tensor.float().contiguous().cpu().numpy().data).hexdigest()
