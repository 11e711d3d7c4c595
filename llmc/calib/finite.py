"""NaN and infinity in what a network reads and gives, told with the place and the call where they came first.

Either spoils every statistic that it goes into, and nothing later shows where it came from. So the ends of each tensor
are kept where the tensor is, and looked at when the calls are over: no call waits for a device.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from llmc import distributed
from llmc.calib.running import running_call
from llmc.calib.store import Call
from llmc.errors import CalibrationError
from llmc.finite import ends

WHAT_TO_DO = (
    "a float model that works has neither. Where it computes in float16, which ends at 65504, let it do so in bfloat16 "
    "or float32 (`model.torch_dtype`); else generate that sample with it, and mend the sample, or take another model"
)


class Finite:
    """Tensors that must hold numbers alone, shown call after call."""

    def __init__(self) -> None:
        self._calls: list[tuple[Call, list[str], Tensor]] = []  # places of tensors in the order in which they came
        self._call: Call | None = None
        self._places: list[str] = []
        self._ends: list[Tensor] = []

    def see(self, place: str, x: Tensor) -> None:
        """A tensor of the call that runs, or a smaller one that has NaN or infinity if the tensor has."""
        if (call := running_call()) is not self._call:
            self._finish_call()
            self._call = call
        self._places.append(place)
        self._ends.append(ends(x))

    def check(self) -> None:
        """Refuse what any rank saw since the last check; all of them are told of the same tensor, the first one."""
        self._finish_call()
        found = [first for first in distributed.gather(self._first()) if first is not None]
        if found:
            call, place = min(found, key=lambda first: first[0].sample)  # which runs on one rank, call after call
            raise CalibrationError(f"{place} holds NaN or infinity, at first in {call}; {WHAT_TO_DO}")
        self._calls.clear()

    def _first(self) -> tuple[Call, str] | None:
        for call, places, found in self._calls:
            right = found.isfinite().all(1).tolist()
            if not all(right):
                return call, places[right.index(False)]
        return None

    def _finish_call(self) -> None:
        """One tensor for a call: many small ones would take more room than what is in them."""
        if self._call is not None and self._ends:
            device = self._ends[-1].device
            self._calls.append((self._call, self._places, torch.stack([each.to(device) for each in self._ends])))
            self._places, self._ends = [], []


def called_with(signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The floats that a network is called with, by the names of its arguments. Infinity is no harm in a mask, which is
    added to what it hides."""
    bound = signature.bind(*args, **kwargs).arguments
    found = {place: x for name, value in bound.items() for place, x in _tensors(name, value)}
    return {place: x.masked_fill(x.isinf(), 0) if "mask" in place else x for place, x in found.items()}


def _tensors(place: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.numel():
            yield place, value
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _tensors(f"{place}[{index}]", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _tensors(f"{place}[{key!r}]", item)
