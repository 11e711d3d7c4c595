"""A rounding method tried on a part of the calibration, and judged by the calls that were kept apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from llmc.calib.apart import OVERFIT, Fit, overfit
from llmc.calib.group import Group
from llmc.layers.linear import QuantLinear
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
class Solved:
    """A weight that a method has rounded."""

    aim: Tensor  # what was rounded
    codes: Quantized
    turned: Tensor | None  # goes to the first factor of its low-rank branch, if it has one

    @classmethod
    def of(cls, layer: QuantLinear, aim: Tensor, codes: Quantized, gram: Tensor) -> Solved:
        """With its branch turned to what rounding left undone of the aim, in the directions that it has."""
        if layer.state.lowrank is None:
            return cls(aim, codes, None)
        return cls(aim, codes, best_up(aim - codes.dequantize(), layer.state.lowrank[1], gram))

    def left(self, layer: QuantLinear) -> Tensor:
        """What it leaves undone of the aim."""
        left = self.aim - self.codes.dequantize()
        if self.turned is not None and layer.state.lowrank is not None:
            left -= self.turned @ layer.state.lowrank[1]
        return left


def fits_of(
    layers: Sequence[QuantLinear], channels: Sequence[slice], solved: Sequence[Solved], used: Moments, apart: Moments
) -> list[Fit]:
    """How solutions for some output channels of each layer fare; a device is waited for once."""
    figures = [
        _figures(layer, some, solution, used, apart)
        for layer, some, solution in zip(layers, channels, solved, strict=True)
    ]
    return [
        Fit(of_used, of_apart, error / of_plain if of_plain > 0 else inf)
        for of_used, of_apart, error, of_plain in torch.stack(figures).tolist()
    ]


def _figures(layer: QuantLinear, channels: slice, solved: Solved, used: Moments, apart: Moments) -> Tensor:
    """The error on the calls used and on those apart, each as a share of the output; the error on those apart once
    more, and that of rounding to nearest."""
    assert layer.spec.weight is not None
    rounded = layer.float_weight(channels)
    weight = rounded + layer.lowrank_product(channels)
    left, plain = solved.left(layer), rounded - quantize(rounded, layer.spec.weight).dequantize()
    off = left + rounded - solved.aim
    error, of_plain = energy(off, apart.gram), energy(plain, apart.gram)
    if apart.cross is not None:
        # of |W x - Q q|^2, off = W - Q, all but |W (x - q)|^2, which plain rounding leaves too; and as before, since
        # what makes up for errors of the layers before is worth little where these are others
        moved = weight.to(apart.cross.dtype) @ (apart.cross - apart.gram)
        error = torch.maximum(error, error + 2 * (moved * (off - plain)).sum())
    shares = [energy(left, calls.gram) / energy(weight, calls.gram).clamp(min=TINY) for calls in (used, apart)]
    return torch.stack([*shares, error, of_plain])


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
