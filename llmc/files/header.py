"""The header of a safetensors file, taken apart with nothing assumed: every tensor has a type, a shape and a place, and
they fill the file one after the other. No value is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from llmc.errors import LlmcError
from llmc.files.json_text import NotJson, parse_object
from llmc.files.regular import file_problem, open_file
from llmc.files.words import shown

MOST_BYTES = 32 * 2**20  # of a header: a quarter of a million tensors
MOST_AXES = 32
LARGEST = 2**63 - 1
SHOWN = 3  # problems in one message
METADATA = "__metadata__"
BITS: Mapping[str, int] = {  # of an element, by the words of the format
    "BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "I32": 32, "U32": 32, "I64": 64, "U64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """One tensor of a file."""

    dtype: str  # in the words of the format
    shape: tuple[int, ...]
    start: int  # byte in the file
    stop: int


@dataclass(frozen=True)
class Header:
    """What is sound of a header, in the order of the file, and all that is wrong with it, to be said after the name."""

    tensors: Mapping[str, Stored] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def read_header(path: Path, refusal: type[LlmcError]) -> Header:
    """A header with which nothing is wrong."""
    header = scan_header(path, refusal)
    if header.problems:
        more = f"; and {len(header.problems) - SHOWN} more" if len(header.problems) > SHOWN else ""
        raise refusal(f"{path} {'; '.join(header.problems[:SHOWN])}{more}; copy or download it again")
    return header


def scan_header(path: Path, refusal: type[LlmcError]) -> Header:
    """A header with whatever is wrong with it; refused is only a file that may not be opened."""
    if problem := file_problem(path):
        return Header(problems=(problem,))
    with open_file(path, refusal) as file:
        size = path.stat().st_size
        length = int.from_bytes(file.read(8), "little")
        if length > MOST_BYTES and 8 + length <= size:
            return Header(problems=(f"has a header of {length} bytes; at most {MOST_BYTES} are read",))
        text = file.read(length) if 8 + length <= size else b""
    try:
        rows = parse_object(text)
    except NotJson as error:
        return Header(problems=(f"has no whole header: it is cut off, or no safetensors file ({error})",))
    return _taken_apart(rows, 8 + length, size)


def _taken_apart(rows: dict[str, Any], first: int, size: int) -> Header:
    metadata, problems = rows.pop(METADATA, None) or {}, []
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        problems.append(f"has a damaged header: its {METADATA} is no object of texts")
        metadata = {}
    tensors: dict[str, Stored] = {}
    for name, row in rows.items():
        if found := _stored(row, first):
            tensors[name] = found
        else:
            problems.append(f"has a damaged header: nothing is said of {shown(name)}, or no type, shape and place")
    tensors = dict(sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)))
    problems += _size_problems(tensors)
    if len(tensors) == len(rows):  # else the places of some are not known
        problems = [*_place_problems(tensors, first, size), *problems]
    return Header(tensors, metadata, tuple(problems))


def _stored(row: Any, first: int) -> Stored | None:
    match row:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [start, stop]}:
            numbers = (*shape, start, stop)
            whole = all(type(number) is int and 0 <= number <= LARGEST for number in numbers)  # a bool is an int, too
            if whole and len(shape) <= MOST_AXES and start <= stop:
                return Stored(dtype, tuple(shape), first + start, first + stop)
    return None


def _size_problems(tensors: Mapping[str, Stored]) -> Iterator[str]:
    for name, tensor in tensors.items():
        bits = BITS.get(tensor.dtype)
        if bits is None:
            yield f"has {shown(name)} stored as {shown(tensor.dtype)}, which is no type of a safetensors file"
        elif prod(tensor.shape) * bits != 8 * (tensor.stop - tensor.start) or _is_beyond_numbers(tensor):
            there = f"{tensor.stop - tensor.start} bytes"
            yield f"has {there} for {shown(name)}, and a shape of {list(tensor.shape)} in {tensor.dtype}"


def _is_beyond_numbers(tensor: Stored) -> bool:
    """Whether the strides of a tensor, which may be empty, are too large for 64 bits."""
    return prod(size or 1 for size in tensor.shape) * BITS[tensor.dtype] > LARGEST


def _place_problems(tensors: Mapping[str, Stored], first: int, size: int) -> Iterator[str]:
    """Tensors lie one after the other, without overlap or hole, up to the end of the file."""
    end = max((tensor.stop for tensor in tensors.values()), default=first)
    if end != size:
        yield f"has {size} bytes, and its header asks for {end}: it is {'truncated' if size < end else 'too long'}"
    before, last = "the header", first
    for name, tensor in tensors.items():
        if tensor.start != last:
            between = "overlaps" if tensor.start < last else "does not follow"
            yield f"has a damaged header: {shown(name)} {between} {shown(before)}"
        before, last = name, max(last, tensor.stop)
