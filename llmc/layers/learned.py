"""What can be learned of a rounded layer: codes within a step of where they are, scales, the bias, the low-rank branch.

Rounding has no slope, so that gradients go straight through it (arXiv:1308.3432). What comes of it is a layer like any
other: codes of its grid, scales exact in the type that the target keeps, a bias in the layer's own type.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from llmc.layers.linear import QuantLinear
from llmc.numerics.quantize import (
    Quantized,
    common_grid,
    counted_from,
    exact_scale,
    fake_quantize,
    kept_scale,
    nearest_codes,
    sliced,
    unsliced,
)

NEAR = 0.45  # of a step: how far from its code a weight starts, so that the first updates change few codes
REACH = 1.0  # steps from its start that a weight may go


@dataclass(frozen=True)
class Rates:
    """How fast each kind of parameter moves, as Adam counts it."""

    rounding: float  # in steps of the weight's grid
    scale: float  # of the logarithm of a scale
    bias: float  # in units of the bias' root mean square
    lowrank: float  # in units of the factors' root mean square


class Learned:
    """One rounded layer while it is learned; the layer itself does not change until it is given the `result`."""

    def __init__(self, layer: QuantLinear) -> None:
        rounded = layer.rounded
        assert rounded is not None
        self.layer, self.rounded, self.spec = layer, rounded, rounded.spec
        codes = self.spec.format.unpack(rounded.codes)
        self.step = self.spec.format.step(codes, rounded.zero)
        self.start = codes + self._toward_float(codes, rounded)
        self.moved = _parameter(torch.zeros_like(codes))  # from there, in steps of the grid
        self.log_scale = _parameter(torch.zeros_like(rounded.scale)) if self._may_scale else None
        bias = layer.final_bias()
        self.bias = None if bias is None else _parameter(bias.float())
        self.lowrank = None if layer.state.lowrank is None else tuple(map(_parameter, _balanced(*layer.state.lowrank)))

    def groups(self, rates: Rates) -> Iterator[dict[str, object]]:
        """Its parameters as an optimizer takes them."""
        yield {"params": [self.moved], "lr": rates.rounding}
        if self.log_scale is not None:
            yield {"params": [self.log_scale], "lr": rates.scale}
        if self.bias is not None:
            yield {"params": [self.bias], "lr": rates.bias * _size(self.bias)}
        for factor in self.lowrank or ():
            yield {"params": [factor], "lr": rates.lowrank * _size(factor)}

    def forward(self, x: Tensor) -> Tensor:
        """What the layer gives, but for the order of sums; gradients reach its parameters and its input."""
        x = self.layer.prepare(x)
        y = linear(self._act(x), self.weight().to(x.dtype))
        if self.lowrank is not None:
            up, down = self.lowrank
            y = y + linear(linear(x, down.to(x.dtype)), up.to(x.dtype))
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def weight(self) -> Tensor:
        """The rounded weight, as a slope sees it."""
        position = self._position()
        codes = position + (self._codes() - position).detach()
        values = counted_from(codes, self.rounded.zero, self.spec)
        return unsliced(values * self._scale(), self.spec, self.rounded.shape)

    @torch.no_grad()
    def stay_near(self) -> None:
        """Keep every weight within reach of where it started."""
        self.moved.clamp_(-REACH, REACH)

    @torch.no_grad()
    def result(self) -> None:
        """Give the layer what was learned, in the form that is stored."""
        scale = self.rounded.scale
        if self.log_scale is not None:
            scale = kept_scale(exact_scale(self._scale(), self.spec), self.spec)
        codes = replace(self.rounded, codes=self.spec.format.pack(self._codes()), scale=scale)
        bias = None if self.bias is None else self.bias.to(self.layer.dtype).float()
        lowrank = self.layer.state.lowrank
        if self.lowrank is not None:
            up, down = self.lowrank
            lowrank = up.detach(), down.detach()
        self.layer.state = replace(self.layer.state, rounded=codes, bias=bias, lowrank=lowrank)

    @property
    def _may_scale(self) -> bool:
        """Whether each scale is this layer's own, and of a type that small changes mean something in."""
        return self.spec.format.scale_dtype is None and self.spec.granularity != "per_tensor"

    def _toward_float(self, codes: Tensor, rounded: Quantized) -> Tensor:
        """From each code toward the weight that it stands for, as far as it is still what that rounds to."""
        exact = sliced(self.layer.float_weight(), self.spec) / rounded.scale
        exact = exact if rounded.zero is None or self.spec.format.steps_every else exact + rounded.zero
        near = NEAR * self.step
        moved = torch.minimum(torch.maximum(exact - codes, -near), near)
        return torch.where(nearest_codes(codes + moved, rounded.zero, self.spec) == codes, moved, 0.0)

    def _codes(self) -> Tensor:
        return nearest_codes(self._position().detach(), self.rounded.zero, self.spec)

    def _position(self) -> Tensor:
        """The weight in units of its scale, before rounding."""
        return self.start + self.step * self.moved

    def _scale(self) -> Tensor:
        return self.rounded.scale if self.log_scale is None else self.rounded.scale * self.log_scale.exp()

    def _act(self, x: Tensor) -> Tensor:
        spec, grid = self.layer.act()
        if spec is None:
            return x
        exact = x.detach()
        grid = grid or common_grid([exact.reshape(-1, exact.shape[-1])], spec)
        rounded = fake_quantize(exact.reshape(-1, exact.shape[-1]), spec, *grid).reshape(exact.shape).to(x.dtype)
        return x + (rounded - exact)


@contextmanager
def learning(layers: Sequence[Learned]) -> Iterator[None]:
    """Run layers with what is learned of them so far."""
    for each in layers:
        each.layer.forward = each.forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        for each in layers:
            del each.layer.forward


def _parameter(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().float().clone())


def _balanced(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """The two factors with norms that are alike, so that one rate suits both."""
    ratio = (down.float().norm() / up.float().norm().clamp(min=1e-30)).sqrt()
    return up.float() * ratio, down.float() / ratio


def _size(value: Tensor) -> float:
    return max(1e-8, value.detach().square().mean().sqrt().item())
