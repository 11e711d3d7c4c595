"""One safetensors file, read by its header and written tensor by tensor.

The library writes only what is in memory all at once. What is written here is, byte for byte, what it would write.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

import torch

from llmc.atomic import atomic_file
from llmc.errors import ExportError
from llmc.files.header import Stored, read_header
from llmc.files.regular import open_file
from llmc.finite import is_finite

# as torch names them, in the order in which safetensors lays them out: wide types first keeps every tensor aligned
DTYPES: Mapping[str, str] = {
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
    "F32": "float32",
    "U32": "uint32",
    "I32": "int32",
    "BF16": "bfloat16",
    "F16": "float16",
    "U16": "uint16",
    "I16": "int16",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
PIECE = 2**20  # bytes in memory at a time of a tensor whose rows can be made alone; larger ones make the heap grow
CODES = {name: code for code, name in DTYPES.items()}
RANKS = {name: rank for rank, name in enumerate(CODES)}


class LazyTensor(Protocol):
    """A tensor that is known by its header, and made when it is written."""

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def make(self) -> torch.Tensor: ...


@runtime_checkable
class RowTensor(LazyTensor, Protocol):
    """A tensor of which some rows can be made alone, so that few of them are in memory at a time."""

    def rows(self, start: int, stop: int) -> torch.Tensor: ...


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file: its dtype and shape at once, its values when asked for."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int  # byte in the file
    file: Path

    def make(self) -> torch.Tensor:
        return self._read(self.start, self.shape)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        row = prod(self.shape[1:]) * self.dtype.itemsize
        return self._read(self.start + start * row, (stop - start, *self.shape[1:]))

    def _read(self, start: int, shape: tuple[int, ...]) -> torch.Tensor:
        flat = torch.empty(prod(shape) * self.dtype.itemsize, dtype=torch.uint8)  # where torch puts its own tensors
        with open_file(self.file, ExportError) as file:
            file.seek(start)
            if file.readinto(flat.numpy().data) < len(flat):
                raise ExportError(f"{self.file} has become shorter; it must not change while it is read; run it again")
        return flat.view(self.dtype).reshape(shape)


def byte_count(tensor: LazyTensor) -> int:
    """What a tensor takes in a file."""
    return prod(tensor.shape) * tensor.dtype.itemsize


def make_rows(tensor: LazyTensor, start: int, stop: int) -> torch.Tensor:
    """Some rows of a tensor; all of it is made if they cannot be made alone."""
    return tensor.rows(start, stop) if isinstance(tensor, RowTensor) else tensor.make()[start:stop]


def row_cuts(tensor: LazyTensor) -> list[tuple[int, int]]:
    """The rows of a tensor in pieces of bounded size: the first of each, and the one after its last."""
    count = max(1, PIECE // max(1, prod(tensor.shape[1:]) * tensor.dtype.itemsize))
    return [(start, min(start + count, tensor.shape[0])) for start in range(0, tensor.shape[0], count)]


def read_tensors(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The tensors of a file, in the order in which they lie there, and its metadata; no value is read."""
    header = read_header(path, ExportError)
    return {name: _stored(path, name, tensor) for name, tensor in header.tensors.items()}, dict(header.metadata)


def write_file(
    path: Path, tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str] | None = None, mode: int | None = None
) -> None:
    """Write one file, holding one tensor at a time, or a piece of one; on an error nothing of it stays."""
    order = sorted(tensors, key=lambda name: (RANKS[_known(name, tensors[name].dtype)], name))
    with atomic_file(path, mode) as file:
        file.write(_header({name: tensors[name] for name in order}, metadata or {}))
        for name in order:
            for piece in _pieces(name, tensors[name]):
                _write_bytes(file, piece)


def _pieces(name: str, lazy: LazyTensor) -> Iterator[torch.Tensor]:
    """A tensor from its first row to its last."""
    if not isinstance(lazy, RowTensor) or not lazy.shape:
        yield made(name, lazy)
        return
    for start, stop in row_cuts(lazy):
        yield _checked(name, lazy.rows(start, stop), lazy.dtype, (stop - start, *lazy.shape[1:]))


def made(name: str, lazy: LazyTensor) -> torch.Tensor:
    """The tensor itself, which must be what its header says."""
    return _checked(name, lazy.make(), lazy.dtype, tuple(lazy.shape))


def _checked(name: str, tensor: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    if (tensor.dtype, tuple(tensor.shape)) != (dtype, shape):
        found, expected = f"{tensor.dtype} {tuple(tensor.shape)}", f"{dtype} {shape}"
        raise ExportError(f"{name} was made as {found}; its header says {expected}; make both from the same layer")
    if not is_finite(tensor):
        raise ExportError(
            f"{name} would be written with NaN or infinity, which no runtime computes with: look for it in what the "
            "tensor is made of, the source or a LoRA (where float16 ends at 65504, write bfloat16)"
        )
    return tensor


def _header(tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str]) -> bytes:
    ends = list(accumulate((byte_count(tensor) for tensor in tensors.values()), initial=0))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    for (name, tensor), (start, end) in zip(tensors.items(), pairwise(ends), strict=True):
        code = CODES[_known(name, tensor.dtype)]
        header[name] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the first tensor begins aligned
    return len(text).to_bytes(8, "little") + text


def _write_bytes(file: BinaryIO, tensor: torch.Tensor) -> None:
    flat = tensor.detach().cpu().contiguous().flatten()
    file.write(flat.view(torch.uint8).numpy().data)


def _known(name: str, dtype: torch.dtype) -> str:
    known = str(dtype).removeprefix("torch.")
    if known not in CODES:
        raise ExportError(f"{name} is {dtype}; safetensors stores {', '.join(DTYPES)}; store it as one of these")
    return known


def _stored(path: Path, name: str, tensor: Stored) -> StoredTensor:
    if tensor.dtype not in DTYPES:
        raise ExportError(
            f"{name} in {path} is stored as {tensor.dtype}; {', '.join(DTYPES)} can be read; store it as one of these"
        )
    return StoredTensor(getattr(torch, DTYPES[tensor.dtype]), tensor.shape, tensor.start, path)
