"""How much plain rounding disturbs what a group of linears gives, on a few rows and output channels of each.

Errors of other rows and channels are like these, so that many changes of basis can be tried in the time of one forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import linear

from llmc.layers.kernels import real_product
from llmc.layers.linear import QuantLinear
from llmc.layers.transforms import Transform
from llmc.numerics.clip import ACT_SHRINKS
from llmc.numerics.quantize import fake_quantize, quantize
from llmc.numerics.spec import LayerSpec, TensorSpec

ROWS = 128  # tokens
RANGE_ROWS = 1024  # of which few reach far
WORTH_CLIPPING = 1.25  # rows that were not kept reach farther: the widest range is taken of those nearly as good
CHANNELS = 128  # of each linear


@dataclass(frozen=True)
class Probe:
    """The linears of one group as they were when it was made, and rows that they read, in the basis of then."""

    linears: tuple[_Alike, ...]
    rows: Tensor

    @classmethod
    def of(cls, linears: Sequence[QuantLinear], rows: Tensor) -> Probe:
        return cls(tuple(_Alike.of(alike) for alike in _alike(linears)), rows)

    def on(self, rows: Tensor) -> Probe:
        """These linears, and other rows."""
        return replace(self, rows=rows)

    def error(self, transform: Transform | None = None) -> float:
        """Squared output error of plain rounding after `transform`, each linear's relative to its output, summed."""
        x = self.rows if transform is None else transform.input(self.rows)
        return sum(alike.error(x, transform, *wanted) for alike, wanted in zip(self.linears, self._wanted, strict=True))

    @cached_property
    def _wanted(self) -> list[tuple[Tensor, Tensor]]:
        return [alike.wanted(self.rows) for alike in self.linears]


def best_share(rows: Tensor, rounded: Callable[[Tensor, float], Tensor], linears: Sequence[QuantLinear] = ()) -> float:
    """The share of a static range that disturbs what linears make of some rows least, each relative to its output;
    without linears, the rows themselves."""
    weights = [layer.float_weight(channels_of(layer.spec.weight, layer.out_features)) for layer in linears]
    relative = [weight / linear(rows, weight).norm().clamp(min=1e-15) for weight in weights]

    def error(share: float) -> Tensor:
        change = rounded(rows, share) - rows
        return (linear(change, torch.cat(relative)) if relative else change).square().sum()

    errors = torch.stack([error(share) for share in ACT_SHRINKS])
    return ACT_SHRINKS[int((errors <= WORTH_CLIPPING * errors.min()).int().argmax())]


@dataclass(frozen=True)
class _Alike:
    """Some output channels of linears that are rounded alike, as of one weight; what a low-rank branch gives is exact,
    and so no part of the error."""

    spec: LayerSpec
    weight: Tensor  # of all, one below the other
    counts: tuple[int, ...]  # channels of each
    branches: tuple[tuple[Tensor, Tensor] | None, ...]

    @classmethod
    def of(cls, linears: Sequence[QuantLinear]) -> _Alike:
        channels = [channels_of(layer.spec.weight, layer.out_features) for layer in linears]
        weights = [layer.float_weight(some) for layer, some in zip(linears, channels, strict=True)]
        counts, branches = tuple(map(len, weights)), tuple(map(_branch, linears, channels))
        return cls(linears[0].spec, torch.cat(weights), counts, branches)

    def wanted(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """What the linears should give, and how much a squared error on each of their channels weighs: it is relative
        to the whole output of its linear."""
        found = linear(rows, self.weight)
        outputs = found.split(self.counts, 1)  # type: ignore[no-untyped-call]
        whole = [
            output if branch is None else output + linear(linear(rows, branch[1]), branch[0])
            for output, branch in zip(outputs, self.branches, strict=True)
        ]
        weighs = [(1 / output.square().sum().clamp(min=1e-30)).expand(output.shape[1]) for output in whole]
        return found, torch.cat(weighs)

    def error(self, x: Tensor, transform: Transform | None, wanted: Tensor, weighs: Tensor) -> float:
        weight = self.weight if transform is None else transform.weight(self.weight)
        return float(rounded_product(x, weight, self.spec).sub_(wanted).square_().sum(0).dot(weighs))


def _branch(layer: QuantLinear, channels: slice) -> tuple[Tensor, Tensor] | None:
    lowrank = layer.state.lowrank
    return None if lowrank is None else (lowrank[0][channels].float(), lowrank[1].float())


def rounded_product(x: Tensor, weight: Tensor, spec: LayerSpec) -> Tensor:
    """x (tokens, in) times weight (out, in), both rounded to nearest; on a CPU by products of int8 codes where it can
    be, which give the same sums in less time."""
    if x.is_cpu and spec.act is not None and spec.weight is not None and spec.multiplies_int8:
        codes = quantize(weight, spec.weight)
        return real_product(x, spec.act, None, codes.stored(), codes.scale)
    return linear(fake_quantize(x, spec.act), fake_quantize(weight, spec.weight))


def output_error(layer: QuantLinear, rows: Tensor) -> float:
    """Squared error of what plain rounding makes of rows in the layer's present basis, relative to its output."""
    some = slice(None) if layer.mixes_outputs else channels_of(layer.spec.weight, layer.out_features)
    weight = layer.float_weight(some)
    wanted = layer.restored_output(linear(rows, weight), some)
    given = layer.restored_output(rounded_product(rows, weight, layer.spec), some)
    return float((given - wanted).square().sum() / wanted.square().sum().clamp(min=1e-30))


def spread(rows: Tensor, count: int) -> Tensor:
    return rows[:: -(-len(rows) // count)]


def channels_of(spec: TensorSpec | None, count: int) -> slice:
    """Evenly spaced output channels; all, where channels share a scale."""
    return slice(None, None, max(1, count // CHANNELS) if spec is None or spec.rows_apart else 1)


def _alike(linears: Sequence[QuantLinear]) -> list[list[QuantLinear]]:
    """Linears whose output channels are rounded each by itself, and in the same way, together."""
    found: dict[LayerSpec | QuantLinear, list[QuantLinear]] = {}
    for layer in linears:
        weight = layer.spec.weight
        found.setdefault(layer.spec if weight is None or weight.rows_apart else layer, []).append(layer)
    return list(found.values())
