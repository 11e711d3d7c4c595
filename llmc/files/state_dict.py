"""What `torch.save` wrote: tensors in containers, read without running any code in the file."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile

import torch

from llmc.errors import LlmcError
from llmc.files.regular import check_file
from llmc.files.words import shown, some

if TYPE_CHECKING:
    from torch import Tensor

MOST_LEVELS, MOST_VALUES = 64, 300_000  # of containers in one another, and all that is in them
# all that torch's unpickler raises where bytes make no sense to it
BROKEN = (
    UnpicklingError, RuntimeError, EOFError, OSError, ValueError, TypeError, LookupError, AttributeError,
    ArithmeticError, AssertionError, ImportError, MemoryError, struct.error,
)  # fmt: skip


class Unreadable(ValueError):
    """Why nothing can be read of a file."""


def load_saved(path: Path, refusal: type[LlmcError], mmap: bool = True, map_location: Any = "cpu") -> Any:
    """Tensors, containers and plain values; an Unreadable says why there are none."""
    check_file(path, refusal)
    _check_records(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a damaged file seems to be
            value = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except BROKEN as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise Unreadable(shown(lines[0])) from error
    _check_bounds(value)
    return value


def named_tensors(path: Path, values: Any, refusal: type[LlmcError]) -> dict[str, Tensor]:
    """Names with plain tensors, which is all that a state dict holds."""
    if not isinstance(values, Mapping):
        raise refusal(f"{path} holds a {type(values).__name__}; only names with tensors are read: save the state dict")
    size = path.stat().st_size
    other = [f"{shown(name)} ({problem})" for name, value in values.items() if (problem := _problem(name, value, size))]
    if other:
        raise refusal(f"{path} holds {some(other)}; only names with plain tensors are read; save the state dict alone")
    return dict(values)


def _problem(name: Any, value: Any, size: int) -> str:
    """What a value is, if it is no plain tensor under a name."""
    if not isinstance(name, str):
        return f"a {type(name).__name__} for a name"
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    if value.layout != torch.strided or value.is_quantized or not value.is_cpu:
        return f"a tensor of another kind: {value.layout}, on {value.device}"
    # a view of few values as many
    return "a tensor larger than the file" if value.nbytes > size else ""


def _check_records(path: Path) -> None:
    """torch keeps records as they are; packed ones could be any size once they are unpacked."""
    try:
        with ZipFile(path) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
    except (BadZipFile, ValueError, OSError, NotImplementedError):  # older than archives, or damaged: torch says more
        return
    if unpacked > path.stat().st_size:
        raise Unreadable("its records would unpack to more than the file has")


def _check_bounds(value: Any) -> None:
    """Each value counts wherever it is met: a container can hold another one many times, or itself."""
    count, level = 0, [value]
    for _ in range(MOST_LEVELS):
        level = list(chain.from_iterable(map(_inside, level)))
        count += len(level)
        if count > MOST_VALUES:
            raise Unreadable(f"it holds more than {MOST_VALUES} values")
        if not level:
            return
    raise Unreadable(f"it is nested deeper than {MOST_LEVELS} levels")


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value
