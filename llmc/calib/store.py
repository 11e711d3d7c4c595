"""Recorded calls of a network, in memory or on disk; a tensor that many calls share is kept once."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llmc.errors import CalibrationError
from llmc.files.header import read_header
from llmc.files.json_text import read_object


@dataclass(frozen=True)
class Call:
    """One call of a network by a pipeline: which one it was, what went in, and (if kept) what came out."""

    sample: int
    step: int
    timestep: float
    branch: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    output: Any = None


@dataclass(frozen=True)
class _Kept:
    """Stands for a tensor in a stored call."""

    number: int


class CallStore:
    """Append calls, iterate over them with their tensors on the device asked for."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._calls: list[Call] = []
        self._tensors: list[Tensor | None] = []  # None: on disk
        self._number_of: dict[tuple[Any, ...], tuple[weakref.ref[Tensor], int]] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, call: Call) -> None:
        self._calls.append(_map_call(call, self._keep, Tensor))

    def calls(self, device: torch.device | str, every: int = 1) -> Iterator[Call]:
        """Every n-th call in order, its tensors on the device."""
        for call in self._calls[::every]:
            yield _map_call(call, lambda kept: self._tensor(kept.number).to(device), _Kept)

    def where(self, keep: Callable[[Call], bool]) -> CallStore:
        """The calls that `keep` says yes to, told by their headers; tensors are shared."""
        chosen = CallStore(self.folder)
        chosen._tensors = self._tensors
        chosen._calls = [call for call in self._calls if keep(call)]
        return chosen

    def spread(self, count: int) -> CallStore:
        """At most so many calls, from the first to the last: equal strides could meet one branch alone."""
        last = len(self) - 1
        chosen = CallStore(self.folder)
        chosen._tensors = self._tensors
        numbers = {round(i * last / max(1, count - 1)) for i in range(count)} if last >= 0 else set()
        chosen._calls = [self._calls[number] for number in sorted(numbers)]
        return chosen

    def headers(self) -> list[Call]:
        """The calls without their tensors."""
        return [replace(call, args=(), kwargs={}, output=None) for call in self._calls]

    def save_index(self) -> None:
        """Write down which tensor files make up which call; with it the folder can be opened again."""
        assert self.folder is not None
        calls = []
        for call in self._calls:
            tensors = {key: _encode(getattr(call, key)) for key in ("args", "kwargs", "output")}
            calls.append(asdict(replace(call, args=(), kwargs={}, output=None)) | tensors)
        text = json.dumps({"tensors": len(self._tensors), "calls": calls})
        (self.folder / "calls.json").write_text(text, encoding="utf-8")

    @classmethod
    def open(cls, folder: Path) -> CallStore:
        """The calls that an earlier run saved; refused if not every one is there, and whole."""
        store, index = cls(folder), folder / "calls.json"
        content = read_object(index, CalibrationError)
        try:
            for entry in content["calls"]:
                entry |= {key: _decode(entry[key]) for key in ("args", "kwargs", "output")}
                store._calls.append(Call(**entry))
            store._tensors = [None] * content["tensors"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CalibrationError(f"{index} does not list recorded calls: {error!r}; record them again") from error
        for number in range(len(store._tensors)):
            read_header(folder / f"{number}.safetensors", CalibrationError)
        return store

    def nbytes(self) -> int:
        """Memory held on the host."""
        return sum(t.numel() * t.element_size() for t in self._tensors if t is not None)

    def _keep(self, tensor: Tensor) -> _Kept:
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor._version)
        known = self._number_of.get(key)
        if known is not None and known[0]() is tensor:  # the very same tensor, unchanged since
            return _Kept(known[1])
        number = len(self._tensors)
        copy = tensor.detach().cpu().clone() if tensor.device.type == "cpu" else tensor.detach().cpu()
        if self.folder is None:
            self._tensors.append(copy)
        else:
            write_tensors(self.folder / f"{number}.safetensors", {"t": copy.contiguous()})
            self._tensors.append(None)
        self._number_of[key] = (weakref.ref(tensor), number)
        return _Kept(number)

    def _tensor(self, number: int) -> Tensor:
        tensor = self._tensors[number]
        if tensor is not None:
            return tensor
        assert self.folder is not None
        with safe_open(self.folder / f"{number}.safetensors", "pt") as file:
            loaded: Tensor = file.get_tensor("t")
        return loaded


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """A file of a recording."""
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:  # what the library makes of an error of the system
        raise CalibrationError(
            f"{path} cannot be written: {error}; make room there, or record elsewhere: a run keeps its float run "
            "and its finished blocks in its folder (base.run_dir), and what it calibrates on in TMPDIR"
        ) from error


def map_tree(value: Any, change: Callable[[Any], Any], of: type) -> Any:
    """Apply `change` to every `of` in nested tuples, lists and dictionaries; everything else stays."""
    if isinstance(value, of):
        return change(value)
    if isinstance(value, tuple | list):
        return type(value)(map_tree(item, change, of) for item in value)
    if isinstance(value, dict):
        return {key: map_tree(item, change, of) for key, item in value.items()}
    return value


def _map_call(call: Call, change: Callable[[Any], Any], of: type) -> Call:
    return replace(
        call,
        args=map_tree(call.args, change, of),
        kwargs=map_tree(call.kwargs, change, of),
        output=map_tree(call.output, change, of),
    )


def _encode(value: Any) -> Any:
    """Nested arguments as json; what json has no word for is tagged."""
    match value:
        case _Kept():
            return {"tensor": value.number}
        case tuple() | list():
            return {type(value).__name__: [_encode(item) for item in value]}
        case dict():
            return {"dict": {key: _encode(item) for key, item in value.items()}}
        case None | bool() | int() | float() | str():
            return {"value": value}
    raise TypeError(f"a network was called with a {type(value).__name__}, which cannot be written down")


def _decode(tagged: dict[str, Any]) -> Any:
    ((tag, value),) = tagged.items()
    match tag:
        case "tensor":
            return _Kept(value)
        case "tuple":
            return tuple(_decode(item) for item in value)
        case "list":
            return [_decode(item) for item in value]
        case "dict":
            return {key: _decode(item) for key, item in value.items()}
    return value
