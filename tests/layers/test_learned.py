"""A rounded layer while it is learned."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llmc.layers.learned import Learned, Rates, learning
from llmc.layers.linear import QuantLinear, in_mode
from llmc.layers.transforms import Scale
from llmc.numerics.spec import LayerSpec, TensorSpec
from tests.slices import by_default

INT4 = TensorSpec(format="int4", granularity="per_channel")
GRIDS = {
    "int4": INT4,
    "int4 asymmetric": TensorSpec(format="int4", granularity="per_channel", symmetric=False),
    "int4 groups, bf16 scales": TensorSpec(
        format="int4", granularity="per_group", group_size=32, scale_dtype="bfloat16"
    ),
    "int8 tensor": TensorSpec(format="int8", granularity="per_tensor"),
    "fp8": TensorSpec(format="fp8_e4m3", granularity="per_channel"),
    "mxfp4": TensorSpec(format="mxfp4"),
    "nvfp4": TensorSpec(format="nvfp4"),
}
ACT = TensorSpec(format="int8", granularity="per_token")
STEPS = 100
RATES = Rates(rounding=3e-3, scale=1e-3, bias=2e-3, lowrank=3e-3)


def layer(weight: TensorSpec = INT4, act: TensorSpec | None = ACT) -> QuantLinear:
    """One that was smoothed, split and rounded."""
    torch.manual_seed(0)
    made = QuantLinear(nn.Linear(64, 48), LayerSpec(weight=weight, act=act))
    made.requires_grad_(False)
    made.transform(Scale.dividing_by(torch.rand(64) + 0.5))
    made.split_lowrank(torch.randn(48, 4) * 0.1, torch.randn(4, 64) * 0.1)
    made.round()
    return made


def inputs(seed: int = 1) -> torch.Tensor:
    return torch.randn(2, 20, 64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("grid", by_default(["int4 asymmetric", "nvfp4"], GRIDS))
def test_what_has_learned_nothing_is_the_layer_as_it_was(grid: str) -> None:
    made = layer(GRIDS[grid])
    before, x = made.rounded_weight(), inputs()
    with in_mode([made], "quantized"):
        expected = made(x)
        learned = Learned(made)
        torch.testing.assert_close(learned.forward(x), expected, rtol=1e-4, atol=1e-4)
        learned.result()
        assert torch.equal(made.rounded_weight(), before)
        torch.testing.assert_close(made(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("grid", by_default(["int4 groups, bf16 scales", "mxfp4"], GRIDS))
def test_the_layer_computes_what_was_learned_in_the_form_that_is_stored(grid: str) -> None:
    made, x = layer(GRIDS[grid]), inputs()
    wanted = torch.nn.functional.linear(x, made.weight, made.bias)
    with in_mode([made], "quantized"):
        before = (made(x) - wanted).square().sum()
        learned = Learned(made)
        optimizer = torch.optim.Adam(list(learned.groups(RATES)), betas=(0.9, 0.99))
        slower = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, STEPS)
        for _ in range(STEPS):
            optimizer.zero_grad()
            (learned.forward(x) - wanted).square().sum().backward()
            optimizer.step()
            slower.step()
            learned.stay_near()
        shown = learned.forward(x).detach()
        learned.result()
        found = made(x)
    assert (found - wanted).square().sum() < 0.85 * before
    assert (found - shown).square().sum() < 0.05 * (found - wanted).square().sum()  # scales were rounded in the end
    scale = made.state.rounded.scale
    spec = made.state.rounded.spec
    if spec.format.scale_dtype is None:
        assert torch.equal(scale.to(getattr(torch, spec.scale_dtype)).float(), scale)
    codes = spec.format.unpack(made.state.rounded.codes)
    assert codes.abs().max() <= spec.format.max + (not spec.symmetric)
    assert ((codes - learned.start).abs() / learned.step).max() <= 2


def test_while_it_is_learned_a_module_runs_with_it_and_then_again_by_itself() -> None:
    made, x = layer(), inputs()
    with in_mode([made], "quantized"):
        learned = Learned(made)
        with torch.no_grad():
            learned.bias += 1
        alone = made(x)
        with learning([learned]):
            torch.testing.assert_close(made(x).detach(), alone + 1, rtol=1e-4, atol=1e-4)
        assert torch.equal(made(x), alone)


def test_gradients_reach_an_input_through_its_rounding() -> None:
    made, x = layer(), inputs().requires_grad_()
    with in_mode([made], "quantized"):
        Learned(made).forward(x).square().sum().backward()
    assert x.grad is not None and (x.grad != 0).float().mean() > 0.99
