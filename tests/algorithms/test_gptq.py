"""GPTQ where it has seen too little."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llmc.algorithms.gptq import GPTQ
from llmc.calib.block import BlockStep
from llmc.calib.group import Group
from llmc.calib.observers import Awaited, Gram
from llmc.layers.linear import QuantLinear
from llmc.numerics.quantize import quantize
from llmc.numerics.spec import LayerSpec, TensorSpec

WIDTH = 64
INT4 = LayerSpec(weight=TensorSpec(format="int4", granularity="per_channel"))


def block(used: torch.Tensor, apart: torch.Tensor, samples: int = 12) -> BlockStep:
    """Two linears, and what calls gave them to read."""
    linears = [QuantLinear(nn.Linear(WIDTH, 48), INT4), QuantLinear(nn.Linear(WIDTH, 32), INT4)]
    group = Group("a", ("a", "b"), tuple(linears), (), sums={"gram": gram_of(used), "gram_apart": gram_of(apart)})
    return BlockStep("block", nn.ModuleList(linears), [group], samples=samples)


def gram_of(x: torch.Tensor) -> Gram:
    """What an observer of these rows has."""
    gram = Gram(Awaited(1, 1, x.shape[1], x.device))
    gram.update(x, x)
    return gram


def calls(tokens: int, seed: int, mixing: torch.Tensor) -> torch.Tensor:
    return torch.randn(tokens, len(mixing), generator=torch.Generator().manual_seed(seed)) @ mixing


def alike() -> torch.Tensor:
    """What makes channels go together in part, as those of networks do."""
    together = torch.randn(16, WIDTH, generator=torch.Generator().manual_seed(0))
    return torch.cat([together, torch.eye(WIDTH)])


@torch.no_grad()
def test_a_solution_for_calls_that_are_like_others_is_kept() -> None:
    step = block(calls(600, 1, alike()), calls(200, 2, alike()))
    GPTQ().apply(step)
    assert step.rejected == {}
    for name, layer in step.linears.items():
        assert not torch.equal(layer.rounded_weight(), quantize(layer.weight, INT4.weight).dequantize())
        assert step.fits[name].overfit == pytest.approx(1, abs=0.3) and step.fits[name].of_plain < 0.5


@torch.no_grad()
@pytest.mark.parametrize("samples", [1, 12])
def test_a_solution_for_these_calls_alone_gives_way_to_rounding(samples: int) -> None:
    step = block(calls(8, 1, torch.eye(WIDTH)), calls(200, 2, torch.eye(WIDTH)), samples)
    GPTQ().apply(step)
    assert step.rejected == {"GPTQ of layers that it does not help on calls kept apart": 2}
    for name, layer in step.linears.items():
        assert torch.equal(layer.rounded_weight(), quantize(layer.weight, INT4.weight).dequantize())
        assert step.fits[name].overfit > 1.6


@torch.no_grad()
def test_what_fits_too_closely_is_damped_more_and_told() -> None:
    step = block(calls(60, 1, alike()), calls(200, 2, alike()))
    GPTQ().apply(step)
    assert step.rejected == {"GPTQ damping": 1}
    assert all(fit.of_plain < 0.5 for fit in step.fits.values())
