"""Recorded calls of a network, in memory or on disk; a tensor that many calls share is kept once."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llmc import distributed
from llmc.errors import CalibrationError
from llmc.files.header import read_header


@dataclass(frozen=True)
class Call:
    """One call of a network by a pipeline: which one it was, what went in, and (if kept) what came out."""

    sample: int
    step: int
    timestep: float | None  # None: the network is told none
    branch: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    output: Any = None
    number: int = 0  # among the chosen calls of the network, in the order of samples, whichever rank runs it
    chosen: bool = True  # whether what it reads is observed, and it is kept

    def header(self) -> Call:
        """The call without its tensors."""
        return replace(self, args=(), kwargs={}, output=None)

    def __str__(self) -> str:
        branch = f", {self.branch}" if self.branch else ""
        return f"call {self.number} (sample {self.sample}, step {self.step}{branch})"


@dataclass(frozen=True)
class _Kept:
    """Stands for a tensor in a stored call; if it lies in a file, says what that holds."""

    number: int
    dtype: str = ""  # in the words of the file's header
    shape: tuple[int, ...] = ()


class CallStore:
    """Append calls, iterate over them with their tensors on the device asked for."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._calls: list[Call] = []
        self.total = 0  # calls of all ranks, once `number_over_ranks` has asked them; else those that are here
        self._tensors: list[Tensor | None] = []  # None: on disk
        self._kept_of: dict[tuple[Any, ...], tuple[weakref.ref[Tensor], _Kept]] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, call: Call) -> None:
        self._calls.append(replace(_map_call(call, self._keep, Tensor), number=len(self)))
        self.total = len(self)

    def number_over_ranks(self) -> None:
        """Give each call its number among those of all ranks: by sample, and as they ran. Calls that ranks ran
        together, each with a share of the tokens, are as many calls."""
        turns: Counter[int] = Counter()
        own = []
        for call in self._calls:
            own.append((call.sample, turns[call.sample], distributed.rank()))
            turns[call.sample] += 1
        everything = sorted(chain(*distributed.gather(own)))
        number_of = {which: number for number, which in enumerate(everything)}
        self._calls = [replace(call, number=number_of[which]) for call, which in zip(self._calls, own, strict=True)]
        self.total = len(everything)

    def calls(self, device: torch.device | str) -> Iterator[Call]:
        """The calls in order, their tensors on the device."""
        for number in range(len(self)):
            yield self.call(number, device)

    def call(self, number: int, device: torch.device | str) -> Call:
        """One call, its tensors on the device."""
        return _map_call(self._calls[number], lambda kept: self._tensor(kept.number).to(device), _Kept)

    def where(self, keep: Callable[[Call], bool]) -> CallStore:
        """The calls that `keep` says yes to, told by their headers, with the numbers that they have here; tensors are
        shared."""
        return self._some([call for call in self._calls if keep(call)])

    def spread(self, count: int) -> CallStore:
        """What is here of at most so many calls of all ranks, from the first to the last: equal strides could meet one
        branch alone."""
        numbers = {round(i * (self.total - 1) / max(1, count - 1)) for i in range(count)}
        return self._some([call for call in self._calls if call.number in numbers])

    def _some(self, calls: list[Call]) -> CallStore:
        chosen = CallStore(self.folder)
        chosen._tensors, chosen._calls, chosen.total = self._tensors, calls, len(calls)
        return chosen

    def headers(self) -> list[Call]:
        """The calls without their tensors."""
        return [call.header() for call in self._calls]

    def index(self) -> list[Call]:
        """Which tensor files make up which call; with it the folder can be opened again."""
        return list(self._calls)

    @classmethod
    def open(cls, folder: Path, index: Sequence[Call]) -> CallStore:
        """The calls of an earlier run; refused if one of their tensors is not there, and whole. Other tensors go."""
        store = cls(folder)
        store._calls, store.total = list(index), len(index)
        wanted: dict[int, _Kept] = {}
        for call in index:
            _map_call(call, lambda kept: wanted.update({kept.number: kept}), _Kept)
        store._tensors = [None] * (max(wanted, default=-1) + 1)
        for kept in wanted.values():
            check_tensor(store._path(kept.number), kept)
        for file in folder.glob("*.safetensors"):
            if file not in {store._path(number) for number in wanted}:
                file.unlink()
        return store

    def nbytes(self) -> int:
        """Memory held on the host."""
        return sum(t.numel() * t.element_size() for t in self._tensors if t is not None)

    def _keep(self, tensor: Tensor) -> _Kept:
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor._version)
        known = self._kept_of.get(key)
        if known is not None and known[0]() is tensor:  # the very same tensor, unchanged since
            return known[1]
        kept = _Kept(len(self._tensors))
        copy = tensor.detach().cpu().clone() if tensor.device.type == "cpu" else tensor.detach().cpu()
        if self.folder is None:
            self._tensors.append(copy)
        else:
            path = self._path(kept.number)
            write_tensors(path, {"t": copy.contiguous()})
            stored = read_header(path, CalibrationError).tensors["t"]
            kept = replace(kept, dtype=stored.dtype, shape=stored.shape)
            self._tensors.append(None)
        self._kept_of[key] = (weakref.ref(tensor), kept)
        return kept

    def _path(self, number: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{number}.safetensors"

    def _tensor(self, number: int) -> Tensor:
        tensor = self._tensors[number]
        if tensor is not None:
            return tensor
        with safe_open(self._path(number), "pt") as file:
            loaded: Tensor = file.get_tensor("t")
        return loaded


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """A file of a recording."""
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:  # what the library makes of an error of the system
        raise CalibrationError(
            f"{path} cannot be written: {error}; make room there, or give the run another folder (base.run_dir): it "
            "keeps what it has finished there, and goes on after it"
        ) from error


def check_tensor(path: Path, kept: _Kept) -> None:
    """Refuse a file of a recording that is missing, or does not hold the tensor that was written; no value is read."""
    held = {name: (stored.dtype, stored.shape) for name, stored in read_header(path, CalibrationError).tensors.items()}
    if held != {"t": (kept.dtype, kept.shape)}:
        raise CalibrationError(f"{path} is not what was written there; no other can be read: record again")


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
