"""How much plain rounding disturbs what a group of linears gives, on a few rows and output channels of each.

Errors of other rows and channels are like these, so that many changes of basis can be tried in the time of one forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from llmc.layers.linear import QuantLinear
from llmc.layers.transforms import Transform
from llmc.numerics.clip import ACT_SHRINKS
from llmc.numerics.quantize import fake_quantize
from llmc.numerics.spec import TensorSpec

ROWS = 128  # tokens
RANGE_ROWS = 1024  # of which few reach far
WORTH_CLIPPING = 1.25  # rows that were not kept reach farther: the widest range is taken of those nearly as good
CHANNELS = 128  # of each linear


class Probe:
    """The linears of one group as they are now, and rows that they read, in their present basis."""

    def __init__(self, linears: Sequence[QuantLinear], rows: Tensor) -> None:
        self.rows = spread(rows, ROWS)
        self.samples = [_Sample(layer, self.rows) for layer in linears]

    def error(self, transform: Transform | None = None) -> float:
        """Squared output error of plain rounding after `transform`, each linear's relative to its output, summed."""
        x = self.rows if transform is None else transform.input(self.rows)
        acts = {act: fake_quantize(x, act) for act in {sample.layer.spec.act for sample in self.samples}}
        return sum(sample.error(acts[sample.layer.spec.act], transform) for sample in self.samples)


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


class _Sample:
    """Some output channels of one linear; what a low-rank branch gives is exact, and so no part of the error."""

    def __init__(self, layer: QuantLinear, rows: Tensor) -> None:
        channels = channels_of(layer.spec.weight, layer.out_features)
        self.layer = layer
        self.weight = layer.float_weight(channels)
        self.target = linear(rows, self.weight)
        whole = self.target if layer.state.lowrank is None else self.target + _branch(layer, rows, channels)
        self.power = whole.square().sum().clamp(min=1e-30)

    def error(self, act: Tensor, transform: Transform | None) -> float:
        """With an act that is rounded already: linears of a group mostly round it alike."""
        weight = self.weight if transform is None else transform.weight(self.weight)
        output = linear(act, fake_quantize(weight, self.layer.spec.weight))
        return float((output - self.target).square().sum() / self.power)


def _branch(layer: QuantLinear, rows: Tensor, channels: slice) -> Tensor:
    assert layer.state.lowrank is not None
    up, down = layer.state.lowrank
    return linear(linear(rows, down.float()), up[channels].float())


def spread(rows: Tensor, count: int) -> Tensor:
    return rows[:: -(-len(rows) // count)]


def channels_of(spec: TensorSpec | None, count: int) -> slice:
    """Evenly spaced output channels; all, where channels share a scale."""
    apart = spec is None or (spec.granularity in ("per_channel", "per_group") and spec.format.whole_max is None)
    return slice(None, None, max(1, count // CHANNELS) if apart else 1)
