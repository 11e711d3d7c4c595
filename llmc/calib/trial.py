"""A rounding method tried on a part of the calibration, and judged by the calls that were kept apart."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from math import inf

import torch
from torch import Tensor

from llmc.calib.group import Group
from llmc.calib.held_out import APART, OVERFIT, Fit, overfit
from llmc.layers.linear import QuantLinear
from llmc.numerics.gptq import Rows
from llmc.numerics.lowrank import best_up
from llmc.numerics.quantize import Quantized, quantize

DAMP_MORE = (1, 10, 100)  # times as much as was asked for
MOST_DAMPING = 10.0
NEARLY = 0.1  # of the least error on calls kept apart: the more damped of such solutions is the safer one
TINY = 1e-30
PAYS = 0.8  # of the error of rounding to nearest, on few calls kept apart, promises less on all others


@dataclass(frozen=True)
class Moments:
    """What calls say of the outputs of weights: q^T q of the inputs, and x^T q where the float inputs x are others."""

    gram: Tensor
    cross: Tensor | None = None

    def add_(self, other: Moments) -> None:
        """Take in what other calls say."""
        self.gram.add_(other.gram)
        if self.cross is not None and other.cross is not None:
            self.cross.add_(other.cross)


@dataclass(frozen=True)
class Seen:
    """The calls that a group was observed in. What they say is made anew for who asks: no more than one of two matrices
    that are larger than any weight need be there at a time."""

    group: Group
    gram: str  # by which names it was measured
    cross: str | None = None
    kept: Collection[str] = ()  # the names of what others read later

    def symmetric(self, keep: bool) -> Seen:
        """For who aims at the float layer on the inputs observed; whether somebody asks after that."""
        kept = {*self.kept, self.gram, self.gram + APART} if keep else self.kept
        return replace(self, cross=None, kept=kept)

    def used(self) -> Moments:
        """Of the calls that a trial may use."""
        return self._moments("", keep=True)

    def apart(self) -> Moments:
        """Of those that it is judged by."""
        return self._moments(APART, keep=True)

    def all(self) -> Moments:
        """Of all; nobody asks again."""
        found = self._moments("", keep=False)
        found.add_(self._moments(APART, keep=False))
        return found

    def forget(self) -> None:
        """Let go of what nobody reads later, also of layers that were rounded to nearest."""
        names = [self.gram, self.cross or self.gram]
        self.group.forget({*names, *(name + APART for name in names)}.difference(self.kept))

    def _moments(self, which: str, keep: bool) -> Moments:
        def made(name: str) -> Tensor:
            return self.group.moment(name + which, keep or name in self.kept)

        return Moments(made(self.gram), None if self.cross is None else made(self.cross))


@dataclass(frozen=True)
class Solved:
    """A weight that a method has rounded."""

    aim: Rows  # what was rounded
    codes: Quantized
    turned: Tensor | None = None  # goes to the first factor of its low-rank branch, if it has one

    @classmethod
    def of(cls, layer: QuantLinear, aim: Rows, codes: Quantized, gram: Tensor | None) -> Solved:
        """With its branch turned to what rounding left undone of the aim, in the directions that it has."""
        if layer.state.lowrank is None or gram is None:
            return cls(aim, codes)
        return cls(aim, codes, best_up(aim[:] - codes.dequantize(), layer.state.lowrank[1], gram))

    def left(self, layer: QuantLinear) -> Tensor:
        """What it leaves undone of the aim."""
        left = self.aim[:] - self.codes.dequantize()
        if self.turned is not None and layer.state.lowrank is not None:
            left -= self.turned @ layer.state.lowrank[1]
        return left


def fits_of(
    layers: Sequence[QuantLinear], channels: Sequence[slice], solved: Sequence[Solved], seen: Seen
) -> list[Fit]:
    """How solutions for some output channels of each layer fare; a device is waited for once."""
    tried = [_Tried.of(*one) for one in zip(layers, channels, solved, strict=True)]
    shares = _each(tried, seen.used(), lambda one, used: [one.share(used)])
    of_apart = _each(tried, seen.apart(), lambda one, apart: [one.share(apart), *one.errors(apart)])
    return [
        Fit(of_used, of_apart, error / of_plain if of_plain > 0 else inf)
        for of_used, of_apart, error, of_plain in torch.cat([shares, of_apart], 1).tolist()
    ]


def _each(tried: Sequence[_Tried], moments: Moments, figures: Callable[[_Tried, Moments], list[Tensor]]) -> Tensor:
    """Figures of each layer, (layers, figures); the moments go when it returns."""
    return torch.stack([torch.stack(figures(one, moments)) for one in tried])


@dataclass(frozen=True)
class _Tried:
    """Some output channels of a layer, and what a solution makes of them."""

    weight: Tensor
    left: Tensor  # undone of what the solution aimed at
    off: Tensor  # by which what it gives misses the weight
    plain: Tensor  # that of rounding to nearest

    @classmethod
    def of(cls, layer: QuantLinear, channels: slice, solved: Solved) -> _Tried:
        assert layer.spec.weight is not None
        rounded = layer.float_weight(channels)
        left, plain = solved.left(layer), rounded - quantize(rounded, layer.spec.weight).dequantize()
        return cls(rounded + layer.lowrank_product(channels), left, left + rounded - solved.aim[:], plain)

    def share(self, calls: Moments) -> Tensor:
        """What is left undone, as a share of the output."""
        return energy(self.left, calls.gram) / energy(self.weight, calls.gram).clamp(min=TINY)

    def errors(self, apart: Moments) -> list[Tensor]:
        """Squared errors on calls kept apart, and those of rounding to nearest."""
        error, of_plain = energy(self.off, apart.gram), energy(self.plain, apart.gram)
        if apart.cross is not None:
            # of |W x - Q q|^2, off = W - Q, all but |W (x - q)|^2, which plain rounding leaves too; and as before,
            # since what makes up for errors of the layers before is worth little where these are others
            moved = self.weight.to(apart.cross.dtype) @ (apart.cross - apart.gram)
            error = torch.maximum(error, error + 2 * (moved * (self.off - self.plain)).sum())
        return [error, of_plain]


def energy(weight: Tensor, gram: Tensor) -> Tensor:
    """Squares of what a weight (out, in) gives in all calls, summed."""
    weight = weight.to(gram.dtype)
    return (weight @ gram).mul_(weight).sum()


@dataclass(frozen=True)
class Trial:
    """The damping that was chosen, and how the layers of a group fare with it."""

    damping: float
    fits: list[Fit]
    is_sure: bool  # what was kept apart is of other samples

    def pays(self, fit: Fit, group: Group) -> bool:
        """Whether a solution is likely to be better than rounding to nearest on all other calls too. Tokens of the same
        sample do not tell what its attentions repeat."""
        sure = self.is_sure or (group.head_width is None and (fit.overfit or inf) <= OVERFIT)
        return sure and fit.of_plain < PAYS


def choose_damping(fits_at: Callable[[float], list[Fit]], damping: float, samples: int) -> Trial:
    """Damp more while a group is over-fit: as much as costs next to nothing on samples kept apart; where they are of
    the same sample, which over-fits them too, as much as it takes."""
    tried: dict[float, list[Fit]] = {}
    for more in DAMP_MORE:
        now = min(damping * more, max(damping, MOST_DAMPING))
        tried[now] = fits_at(now)
        if (overfit(tried[now]) or 0.0) <= OVERFIT:
            break
    least = min(map(_error, tried.values()))
    good = [now for now, fits in tried.items() if samples == 1 or _error(fits) <= least + NEARLY * abs(least)]
    return Trial(max(good), tried[max(good)], samples > 1)


def _error(fits: Sequence[Fit]) -> float:
    return sum(fit.of_plain for fit in fits)
