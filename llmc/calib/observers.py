"""What is measured of a tensor while calls go by. Each observer says how ranks combine."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any, Protocol

import torch
from torch import Tensor

from llmc import distributed
from llmc.calib.running import running_call
from llmc.calib.values_on_disk import on_disk
from llmc.layers.steps import running_step
from llmc.numerics.precision import exact_products

PANEL = 192  # columns of a Gram matrix that are added up at once: so many at least,
PANELS = 16  # and of a wide one a sixteenth, since each product reads all columns to the right of its own
LARGE = 1 << 23  # bytes of sampled rows, from which on they wait in pages that the system can take back
TOKENS = 4096  # that are added up at once: what is made float32 for it stays small
WIDE = 2048  # from so many channels on, products of what lies in memory channel by channel repay turning it round,
TURNED = 128  # so many tokens at a time, as a cache holds them


@dataclass(frozen=True)
class Awaited:
    """What an observer is told of its tensor beforehand: a rank may see none of the calls."""

    calls: int  # of all ranks
    max_rows: int
    width: int
    device: torch.device


class Observer(Protocol):
    """Fed the input of a group of linears, call after call, in the original basis; `reference` is what the float model
    gives there, which is the same tensor unless earlier blocks are quantized.

    `update` returns what it made of x if that is smaller, and has NaN or infinity wherever x has."""

    def update(self, x: Tensor, reference: Tensor) -> Tensor | None: ...
    def reduce(self) -> None: ...
    def result(self) -> Tensor: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: dict[str, Any]) -> None: ...


class Remembered:
    """An observer whose whole state is in its attributes: plain values and tensors."""

    def state(self) -> dict[str, Any]:
        return dict(vars(self))

    def restore(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


class AbsMax(Remembered):
    """The largest magnitude of each channel."""

    def __init__(self, awaited: Awaited) -> None:
        self.value = torch.zeros(awaited.width, device=awaited.device)

    def update(self, x: Tensor, reference: Tensor) -> Tensor:
        now = channel_absmax(x.reshape(-1, x.shape[-1])).float()
        self.value = torch.maximum(self.value, now)
        return now

    def reduce(self) -> None:
        distributed.reduce(self.value, "max")

    def result(self) -> Tensor:
        return self.value


def channel_absmax(x: Tensor) -> Tensor:
    """Of each channel. Bits without the sign are in the order of magnitudes, and a CPU compares them as integers twice
    as fast as floats of 16 bits."""
    if x.is_cpu and x.element_size() == 2:
        return (x.contiguous().view(torch.int16) & 0x7FFF).amax(0).view(x.dtype)
    return x.abs().amax(0)


class Range(Remembered):
    """The smallest and the largest value of each channel, (2, channels): inf and -inf where no call was seen."""

    def __init__(self, awaited: Awaited) -> None:
        self.low = torch.full((awaited.width,), math.inf, device=awaited.device)
        self.high = -self.low

    def update(self, x: Tensor, reference: Tensor) -> Tensor:
        x = x.reshape(-1, x.shape[-1])
        now = torch.stack([x.amin(0), x.amax(0)]).float()
        self.low, self.high = torch.minimum(self.low, now[0]), torch.maximum(self.high, now[1])
        return now

    def reduce(self) -> None:
        distributed.reduce(self.low, "min")
        distributed.reduce(self.high, "max")

    def result(self) -> Tensor:
        return torch.stack([self.low, self.high])


class StepRange(Remembered):
    """The least and the largest value of each channel in each denoising step, (steps, 2, channels)."""

    def __init__(self, awaited: Awaited) -> None:
        self.unseen = Range(awaited)
        self.seen: dict[int, Range] = defaultdict(lambda: Range(awaited))

    def update(self, x: Tensor, reference: Tensor) -> Tensor:
        return self.seen[running_step()].update(x, reference)

    def reduce(self) -> None:
        device = self.unseen.low.device
        for ranges in distributed.gather({step: seen.result().cpu() for step, seen in self.seen.items()}):
            for step, ends in ranges.items():  # two rows that have the range of all
                self.seen[step].update(ends.to(device), ends)

    def result(self) -> Tensor:
        steps = range(max(self.seen) + 1)
        return torch.stack([self.seen.get(step, self.unseen).result() for step in steps])

    def state(self) -> dict[str, Any]:
        return {"seen": {step: seen.state() for step, seen in self.seen.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        for step, seen in state["seen"].items():
            self.seen[step].restore(seen)


class Gram(Remembered):
    """x^T x over all tokens: what rounding errors of a weight do to its outputs."""

    dtype = torch.float32
    symmetric = True  # then what is on and right of the diagonal is enough

    def __init__(self, awaited: Awaited) -> None:
        width = awaited.width
        rows = max(PANEL, width // PANELS) if self.symmetric else width
        self.panels = [
            torch.zeros(min(rows, width - start), width - self._left(start), device=awaited.device, dtype=self.dtype)
            for start in range(0, width, rows)
        ]

    def update(self, x: Tensor, reference: Tensor) -> None:
        width = x.shape[-1]
        x, reference = x.reshape(-1, width), reference.reshape(-1, width)
        with exact_products(x.dtype):
            for start in range(0, len(x), TOKENS):
                some = slice(start, start + TOKENS)
                channels = _by_channel(x[some], self.dtype)
                self._add(channels if self.symmetric else _by_channel(reference[some], self.dtype), channels)

    def _add(self, rows: Tensor, columns: Tensor) -> None:
        for start, panel in zip(self._starts(), self.panels, strict=True):
            panel.addmm_(rows[start : start + len(panel)], columns[self._left(start) :].T)

    def _starts(self) -> list[int]:
        """The number of rows above each panel."""
        return [0, *accumulate(map(len, self.panels[:-1]))]

    def _left(self, start: int) -> int:
        """The first column that is kept of rows from `start` on."""
        return start if self.symmetric else 0

    def reduce(self) -> None:
        for panel in self.panels:
            distributed.reduce(panel, "sum")

    def result(self, keep: bool = True) -> Tensor:
        """The whole matrix; nothing else is as large, so without `keep` what it is made of goes meanwhile."""
        width = sum(map(len, self.panels))
        whole = self.panels[0].new_empty(width, width)
        for place, start in enumerate(self._starts()):
            panel = self.panels[place]
            whole[start : start + len(panel), self._left(start) :] = panel
            if not keep:
                self.panels[place] = panel.new_empty(0)
        if self.symmetric:
            _complete(whole)
        return whole


def _complete(whole: Tensor) -> None:
    """Make what is left of the diagonal equal to what is right of it."""
    for start in range(0, len(whole), PANEL):
        end = start + PANEL
        whole[end:, start:end] = whole[start:end, end:].T
        corner = whole[start:end, start:end]  # not every processor's product with itself is symmetric
        corner.copy_(corner.triu() + corner.triu(1).T)


def _by_channel(x: Tensor, dtype: torch.dtype) -> Tensor:
    """(channels, tokens) of (tokens, channels)."""
    if x.shape[1] < WIDE:
        return x.to(dtype).T
    turned = torch.empty(x.shape[1], len(x), device=x.device, dtype=dtype)
    for start in range(0, len(x), TURNED):
        turned[:, start : start + TURNED] = x[start : start + TURNED].T
    return turned


class Cross(Gram):
    """x^T q over all tokens, x the float input and q the one that quantized linears give."""

    symmetric = False


class ExactGram(Gram):
    """x^T x over all tokens, in float64."""

    dtype = torch.float64


class ExactCross(Cross):
    """x^T q over all tokens, in float64."""

    dtype = torch.float64


class MeanAbs(Remembered):
    """The mean magnitude of each channel."""

    def __init__(self, awaited: Awaited) -> None:
        self.total = torch.zeros(awaited.width, device=awaited.device, dtype=torch.float64)
        self.count = 0

    def update(self, x: Tensor, reference: Tensor) -> None:
        x = x.reshape(-1, x.shape[-1])
        for some in x.split(TOKENS):  # type: ignore[no-untyped-call]
            self.total += some.to(torch.float32, copy=True).abs_().sum(0)  # which is enough for so many
        self.count += len(x)

    def reduce(self) -> None:
        distributed.reduce(self.total, "sum")
        self.count = sum(distributed.gather(self.count))

    def result(self) -> Tensor:
        return (self.total / self.count).float()


class Rows(Remembered):
    """A bounded sample of rows (tokens), evenly spaced within each call and over all calls of all ranks."""

    def __init__(self, awaited: Awaited) -> None:
        self.per_call = max(1, awaited.max_rows // max(1, awaited.calls))
        self.every = max(1, awaited.calls // awaited.max_rows)
        self.kept: list[tuple[int, Tensor]] = []  # of each call, by its number

    def update(self, x: Tensor, reference: Tensor) -> None:
        number = running_call().number
        if number % self.every:
            return
        x = x.reshape(-1, x.shape[-1])
        # the offset moves from call to call, so that all positions are seen and not only the first of each stride
        stride = max(1, x.shape[0] // self.per_call)
        start = ((number + 1) * 7919) % stride
        some = x[start::stride][: self.per_call]
        self.kept.append((number, some.to("cpu", copy=True)))  # on the host: this is what grows; a view would keep x

    def reduce(self) -> None:
        everything = chain(*distributed.gather(self.kept))
        self.kept = sorted(everything, key=lambda numbered: numbered[0])

    def result(self) -> Tensor:
        rows = torch.cat([rows for _, rows in self.kept])
        return rows if rows.nbytes < LARGE else on_disk(rows)


class RowSteps(Rows):
    """The denoising step that each of those rows was read in, (rows, 1)."""

    def update(self, x: Tensor, reference: Tensor) -> None:
        super().update(torch.full((*x.shape[:-1], 1), float(running_step())), reference)


OBSERVERS: dict[str, Callable[[Awaited], Observer]] = {
    "absmax": AbsMax,
    "range": Range,
    "step_range": StepRange,
    "gram": Gram,
    "cross": Cross,
    "gram64": ExactGram,
    "cross64": ExactCross,
    "gram_apart": Gram,
    "cross_apart": Cross,
    "gram64_apart": ExactGram,
    "cross64_apart": ExactCross,
    "mean": MeanAbs,
    "rows": Rows,
    "row_steps": RowSteps,
}
