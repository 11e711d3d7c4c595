"""What is measured of a tensor while calls go by. Each observer says how ranks combine."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from llmc import distributed
from llmc.layers.steps import running_step

PANEL = 192  # columns of a Gram matrix that are added up at once: so many at least,
PANELS = 16  # and of a wide one a sixteenth, since each product reads all columns to the right of its own
TOKENS = 4096  # that are added up at once: what is made float32 for it stays small
WIDE = 2048  # from so many channels on, products of what lies in memory channel by channel repay turning it round,
TURNED = 128  # so many tokens at a time, as a cache holds them


class Observer(Protocol):
    """Fed the input of a group of linears, call after call, in the original basis; `reference` is what the float model
    gives there, which is the same tensor unless earlier blocks are quantized."""

    def update(self, x: Tensor, reference: Tensor) -> None: ...
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

    def __init__(self, calls: int, max_rows: int) -> None:
        self.value: Tensor | None = None

    def update(self, x: Tensor, reference: Tensor) -> None:
        now = channel_absmax(x.reshape(-1, x.shape[-1])).float()
        self.value = now if self.value is None else torch.maximum(self.value, now)

    def reduce(self) -> None:
        distributed.reduce(self.result(), "max")

    def result(self) -> Tensor:
        assert self.value is not None
        return self.value


def channel_absmax(x: Tensor) -> Tensor:
    """Of each channel. Bits without the sign are in the order of magnitudes, and a CPU compares them as integers twice
    as fast as floats of 16 bits."""
    if x.is_cpu and x.element_size() == 2:
        return (x.contiguous().view(torch.int16) & 0x7FFF).amax(0).view(x.dtype)
    return x.abs().amax(0)


class Range(Remembered):
    """The smallest and the largest value of each channel, (2, channels)."""

    def __init__(self, calls: int, max_rows: int) -> None:
        self.value: Tensor | None = None

    def update(self, x: Tensor, reference: Tensor) -> None:
        x = x.reshape(-1, x.shape[-1])
        now = torch.stack([x.amin(0), x.amax(0)]).float()
        if self.value is not None:
            now = torch.stack([torch.minimum(self.value[0], now[0]), torch.maximum(self.value[1], now[1])])
        self.value = now

    def reduce(self) -> None:
        low, high = self.result()
        self.value = torch.stack(
            [distributed.reduce(low.contiguous(), "min"), distributed.reduce(high.contiguous(), "max")]
        )

    def result(self) -> Tensor:
        assert self.value is not None
        return self.value


class StepRange(Remembered):
    """The same in each denoising step, (steps, 2, channels): inf and -inf where no call was seen."""

    def __init__(self, calls: int, max_rows: int) -> None:
        self.seen: dict[int, Range] = defaultdict(lambda: Range(calls, max_rows))

    def update(self, x: Tensor, reference: Tensor) -> None:
        self.seen[running_step()].update(x, reference)

    def reduce(self) -> None:
        device = next(iter(self.seen.values())).result().device
        for ranges in distributed.gather({step: seen.result().cpu() for step, seen in self.seen.items()}):
            for step, ends in ranges.items():  # two rows that have the range of all
                self.seen[step].update(ends.to(device), ends)

    def result(self) -> Tensor:
        found = {step: seen.result() for step, seen in self.seen.items()}
        unseen = torch.full_like(next(iter(found.values())), math.inf)
        unseen[1] = -math.inf
        return torch.stack([found.get(step, unseen) for step in range(max(found) + 1)])

    def state(self) -> dict[str, Any]:
        return {"seen": {step: seen.state() for step, seen in self.seen.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        for step, seen in state["seen"].items():
            self.seen[step].restore(seen)


@contextmanager
def exact_products(dtype: torch.dtype) -> Iterator[None]:
    """Let float32 products of bf16 values be taken by the units for short factors, where a device has them: bf16 and
    tf32 hold every such factor exactly, and sums stay float32."""
    if dtype != torch.bfloat16:
        yield
        return
    backends: Any = torch.backends
    on_cpu, on_cuda = backends.mkldnn.matmul, backends.cuda.matmul
    before = on_cpu.fp32_precision, on_cuda.fp32_precision
    try:
        on_cpu.fp32_precision, on_cuda.fp32_precision = "bf16", "tf32"
        yield
    finally:
        on_cpu.fp32_precision, on_cuda.fp32_precision = before


class Gram(Remembered):
    """x^T x over all tokens: what rounding errors of a weight do to its outputs."""

    dtype = torch.float32

    def __init__(self, calls: int, max_rows: int) -> None:
        self.value: Tensor | None = None

    def update(self, x: Tensor, reference: Tensor) -> None:
        width = x.shape[-1]
        if self.value is None:
            self.value = torch.zeros(width, width, device=x.device, dtype=self.dtype)
        x, reference = x.reshape(-1, width), reference.reshape(-1, width)
        with exact_products(x.dtype):
            for start in range(0, len(x), TOKENS):
                some = slice(start, start + TOKENS)
                self._add(self.value, _by_channel(x[some], self.dtype), reference[some])

    def _add(self, value: Tensor, channels: Tensor, reference: Tensor) -> None:
        panel = max(PANEL, len(channels) // PANELS)
        for start in range(0, len(channels), panel):  # it is symmetric: the half on and above the diagonal is enough
            value[start : start + panel, start:].addmm_(channels[start : start + panel], channels[start:].T)

    def reduce(self) -> None:
        assert self.value is not None
        distributed.reduce(self.value, "sum")

    def result(self) -> Tensor:
        assert self.value is not None
        for start in range(0, len(self.value), PANEL):
            end = start + PANEL
            self.value[end:, start:end] = self.value[start:end, end:].T
            corner = self.value[start:end, start:end]  # not every processor's product with itself is symmetric
            corner.copy_(corner.triu() + corner.triu(1).T)
        return self.value


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

    def _add(self, value: Tensor, channels: Tensor, reference: Tensor) -> None:
        value.addmm_(_by_channel(reference, self.dtype), channels.T)

    def result(self) -> Tensor:
        assert self.value is not None
        return self.value


class ExactGram(Gram):
    """The same in float64."""

    dtype = torch.float64


class ExactCross(Cross):
    """The same in float64."""

    dtype = torch.float64


class MeanAbs(Remembered):
    """The mean magnitude of each channel."""

    def __init__(self, calls: int, max_rows: int) -> None:
        self.total: Tensor | None = None
        self.count = torch.zeros(1, dtype=torch.float64)

    def update(self, x: Tensor, reference: Tensor) -> None:
        x = x.reshape(-1, x.shape[-1])
        for some in x.split(TOKENS):  # type: ignore[no-untyped-call]
            now = some.to(torch.float32, copy=True).abs_().sum(0)  # which is enough for so many
            self.total = now.double() if self.total is None else self.total.add_(now)
        self.count += len(x)

    def reduce(self) -> None:
        assert self.total is not None
        self.count = self.count.to(self.total.device)
        distributed.reduce(self.total, "sum")
        distributed.reduce(self.count, "sum")

    def result(self) -> Tensor:
        assert self.total is not None
        return (self.total / self.count.to(self.total.device)).float()


class Rows(Remembered):
    """A bounded sample of rows (tokens), evenly spaced within each call and over all calls."""

    def __init__(self, calls: int, max_rows: int) -> None:
        self.per_call = max(1, max_rows // max(1, calls))
        self.every = max(1, calls // max_rows)
        self.seen = 0
        self.kept: list[Tensor] = []

    def update(self, x: Tensor, reference: Tensor) -> None:
        self.seen += 1
        if (self.seen - 1) % self.every:
            return
        x = x.reshape(-1, x.shape[-1])
        # the offset moves from call to call, so that all positions are seen and not only the first of each stride
        stride = max(1, x.shape[0] // self.per_call)
        start = (self.seen * 7919) % stride
        some = x[start::stride][: self.per_call]
        self.kept.append(some.to("cpu", copy=True))  # on the host, for this is what grows; a view would keep all of x

    def reduce(self) -> None:
        self.kept = [part for parts in distributed.gather(self.kept) for part in parts]

    def result(self) -> Tensor:
        return torch.cat(self.kept)


class RowSteps(Rows):
    """The denoising step that each of those rows was read in, (rows, 1)."""

    def update(self, x: Tensor, reference: Tensor) -> None:
        super().update(torch.full((*x.shape[:-1], 1), float(running_step())), reference)


OBSERVERS: dict[str, Callable[[int, int], Observer]] = {
    "absmax": AbsMax,
    "range": Range,
    "step_range": StepRange,
    "gram": Gram,
    "cross": Cross,
    "gram64": ExactGram,
    "cross64": ExactCross,
    "mean": MeanAbs,
    "rows": Rows,
    "row_steps": RowSteps,
}
