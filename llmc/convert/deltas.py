"""What is added to tensors: a difference, or a product of two factors; summed in float32, rounded once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llmc.convert.names import Place, Range
from llmc.convert.safetensors_file import LazyTensor, StoredTensor, make_rows


@dataclass(frozen=True)
class Delta:
    """What is added to some rows of one parameter: one tensor, or the product of up and down."""

    keys: tuple[str, ...]
    factors: tuple[StoredTensor, ...]
    scale: float
    rows: Range | None = None  # of the parameter; None: it is not added row by row, but reshaped as a whole
    of_change: Range | None = None  # the same rows of what is added

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.factors[0].shape[:1], *self.factors[-1].shape[1:])

    def at(self, place: Place, shape: tuple[int, ...], strength: float) -> Delta:
        """The delta at a place of a parameter of that shape, as strong as asked for."""
        rows, of_change = place.rows or _all_rows(shape), place.of_change or _all_rows(self.shape)
        by_row = rows is not None and of_change is not None and rows[1] - rows[0] == of_change[1] - of_change[0]
        ranges = (rows, of_change) if by_row else (None, None)
        return replace(self, scale=strength * self.scale, rows=ranges[0], of_change=ranges[1])

    def add_to(self, total: Tensor, start: int) -> None:
        """Add it, in the type of `total`, which holds the rows of the parameter from `start` on."""
        if self.rows is None or self.of_change is None:
            first, *others = self.factors
            total += self.scale * _product(first.make(), others, total).reshape(total.shape)
            return
        low, high = max(self.rows[0], start), min(self.rows[1], start + len(total))
        if low < high:
            offset = self.of_change[0] - self.rows[0]
            first, *others = self.factors
            rows = total[low - start : high - start]
            change = _product(first.rows(low + offset, high + offset), others, total)
            rows += self.scale * change.reshape(rows.shape)


@dataclass(frozen=True)
class Merged:
    """A tensor with deltas added: summed in float32, whatever its type, and rounded once."""

    base: LazyTensor
    deltas: tuple[Delta, ...]

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.base.shape)

    @property
    def bases(self) -> tuple[LazyTensor, ...]:
        return (self.base,)

    def make(self) -> Tensor:
        return summed(self.base.make(), self.deltas)

    def rows(self, start: int, stop: int) -> Tensor:
        if any(delta.rows is None for delta in self.deltas):
            return self.make()[start:stop]
        return summed(make_rows(self.base, start, stop), self.deltas, start)


def summed(tensor: Tensor, deltas: Iterable[Delta], start: int = 0) -> Tensor:
    """A parameter, or its rows from `start` on, with what is added to it."""
    total = tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32), copy=True)
    for delta in deltas:
        delta.add_to(total, start)
    return total.to(tensor.dtype)


def _product(first: Tensor, others: Sequence[StoredTensor], like: Tensor) -> Tensor:
    """What factors make, in the type of `like`; a convolution is a linear of its flattened patch."""
    first = first.to(like.device, like.dtype)
    for factor in others:
        first = first.flatten(1) @ factor.make().to(like.device, like.dtype).flatten(1)
    return first


def _all_rows(shape: tuple[int, ...]) -> Range | None:
    return (0, shape[0]) if shape else None
