"""Smoothing methods, against their formulas."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from llmc.algorithms.base import Algorithm
from llmc.algorithms.flexsmooth import FlexSmooth
from llmc.algorithms.itersmooth import IterSmooth
from llmc.algorithms.smoothquant import ALPHAS, SmoothQuant
from llmc.calib.block import BlockStep
from llmc.calib.group import JUDGED_BY, Group
from llmc.layers.linear import QuantLinear, in_mode
from llmc.layers.transforms import Rotate, Scale
from llmc.numerics.hadamard import block_hadamard
from llmc.numerics.smoothing import smoothing
from llmc.numerics.spec import Granularity, LayerSpec, ScaleDtype, TensorSpec

W8A8 = LayerSpec(
    weight=TensorSpec(format="int8", granularity="per_channel"), act=TensorSpec(format="int8", granularity="per_token")
)


def block(seed: int = 0) -> BlockStep:
    """Two linears that read one tensor, a few channels of which reach far."""
    generator = torch.Generator().manual_seed(seed)
    linears = []
    for outputs in (48, 24):
        linear = nn.Linear(32, outputs)
        linear.weight.data = torch.randn(outputs, 32, generator=generator) * torch.rand(32, generator=generator)
        linears.append(QuantLinear(linear, W8A8))
    rows = torch.randn(128, 32, generator=generator) * torch.randn(32, generator=generator).exp().square()
    stats = {"rows": rows, "absmax": rows.abs().amax(0)}
    return BlockStep(
        "block", nn.ModuleList(linears), [Group("block.a", ("block.a", "block.b"), tuple(linears), (), stats)]
    )


def multiplier(method: Algorithm, step: BlockStep) -> torch.Tensor:
    with torch.no_grad():
        method.apply(step)
    (transform,) = step.groups[0].linears[1].state.transforms
    assert isinstance(transform, Scale)
    return transform.multiplier


def magnitudes(step: BlockStep) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the act and of all rows of all weights, in float64."""
    group = step.groups[0]
    weights = torch.cat([layer.weight.detach().double() for layer in group.linears])
    return group.stats["rows"].double().abs().amax(0), weights.abs().amax(0)


def test_the_formula_holds_in_float64_and_leaves_dead_channels_alone() -> None:
    act, weight = (torch.rand(64, dtype=torch.float64) + 0.01 for _ in range(2))
    torch.testing.assert_close(smoothing(act, weight, 0.7, 0.2), act**0.7 / weight**0.2, rtol=1e-14, atol=0)
    act[3], weight[5] = 0, 0
    assert smoothing(act, weight, 0.7, 0.2)[[3, 5]].tolist() == [1, 1]


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("alpha", [0.5, 0.9])
def test_silent_channels_are_left_alone_and_faint_ones_stay_finite_when_they_speak(
    dtype: ScaleDtype, alpha: float
) -> None:
    step, kept = block(), getattr(torch, dtype)
    (group,) = step.groups
    group.multiplier_dtype = dtype
    group.stats["rows"][:, :4] = torch.tensor([0, 1e-30, 1e-12, 1e-6])
    group.stats["absmax"] = group.stats["rows"].abs().amax(0)
    found = multiplier(IterSmooth(alpha=alpha, gate=False), step)
    assert found[0] == 1 and (found[1:4] > 1).all() and found.to(kept).float().equal(found)
    loud = torch.full((1, 32), 200.0, dtype=kept)
    layer = group.linears[0]
    assert layer.state.transforms[0].input(loud).isfinite().all()
    with in_mode([layer], "transformed"):  # the weight has taken up what is kept, not what was asked for
        wanted = nn.functional.linear(loud.float(), layer.weight, layer.bias)
        torch.testing.assert_close(layer(loud.float()), wanted, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(("alpha", "scale_min"), [(0.5, 1e-5), (0.9, 1e-5), (0.5, 0.9)])
def test_iterative_smoothing_is_its_formula(alpha: float, scale_min: float) -> None:
    step = block()
    act, weight = magnitudes(step)
    s = (act**alpha / weight ** (1 - alpha)).clamp(min=scale_min)
    found = multiplier(IterSmooth(alpha=alpha, scale_min=scale_min, gate=False), step)
    assert torch.equal(found, (1 / s).bfloat16().float())


def test_flexible_smoothing_with_both_exponents_is_its_formula() -> None:
    step = block()
    act, weight = magnitudes(step)
    found = multiplier(FlexSmooth(alpha=0.65, beta=0.2, gate=False), step)
    assert torch.equal(found, (weight**0.2 / act**0.65).bfloat16().float())


@torch.no_grad()
@pytest.mark.parametrize("seed", range(4))
def test_the_search_ends_no_worse_than_iterative_smoothing_or_than_alpha_alone(seed: int) -> None:
    probe = block(seed).groups[0].probe()
    act, weight = (tensor.float() for tensor in magnitudes(block(seed)))
    found = probe.error(Scale(multiplier(FlexSmooth(gate=False), block(seed))))
    tried = [probe.error(Scale.dividing_by(smoothing(act, weight, i / 20, 1 - i / 20))) for i in range(21)]
    assert found <= min(tried) * (1 + 1e-6) and found <= tried[10] * (1 + 1e-6)


@torch.no_grad()
@pytest.mark.parametrize("seed", range(4))
def test_the_search_for_alpha_ends_where_no_neighbour_is_better(seed: int) -> None:
    probe = block(seed).groups[0].probe()
    act, weight = (tensor.float() for tensor in magnitudes(block(seed)))
    formula = [Scale.dividing_by(smoothing(act, weight, alpha, 1 - alpha)) for alpha in ALPHAS]
    found = multiplier(SmoothQuant(alpha="search", gate=False), block(seed))
    (place,) = [i for i, scale in enumerate(formula) if torch.equal(scale.multiplier, found)]
    errors = [probe.error(scale) for scale in formula]
    assert errors[place] == min(errors[max(0, place - 1) : place + 2])
    assert errors[place] <= min(errors[1::3])


@torch.no_grad()
def test_largest_weights_are_those_of_the_basis_that_a_linear_is_in() -> None:
    def seen(change: Callable[[Group], None]) -> tuple[torch.Tensor, torch.Tensor]:
        group = block().groups[0]
        for layer in group.linears:
            layer.weight.data = layer.weight.data.bfloat16()
        change(group)
        return group.weight_absmax(), torch.cat([layer.float_weight() for layer in group.linears]).abs().amax(0)

    def branch(group: Group) -> None:
        group.linears[0].split_lowrank(torch.ones(48, 1), torch.full((1, 32), 5.0))

    some = Scale(torch.linspace(-3, 2, 32))
    rotation = Rotate(block_hadamard(32))
    changes: list[Callable[[Group], None]] = [
        lambda group: None,
        lambda group: group.transform(some),
        lambda group: group.transform(rotation),
        lambda group: group.linears[0].transform_output(Scale(torch.linspace(1, 9, 48))),
        branch,
    ]
    for change in changes:
        assert torch.equal(*seen(change))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16"])
@pytest.mark.parametrize("lowrank", [False, True])
def test_a_change_is_judged_as_it_was_made(dtype: ScaleDtype | None, lowrank: bool) -> None:
    (group,) = block().groups
    group.multiplier_dtype = dtype
    if lowrank:
        for layer in group.linears:
            layer.split_lowrank(torch.randn(layer.out_features, 2), torch.randn(2, 32))
    for scale in (torch.logspace(-6, 4, 32), torch.logspace(2, -1, 32)):  # beyond what float16 may hold
        probe = group.probe()
        made = group.transform(Scale(scale))
        assert probe.error(made) == pytest.approx(group.probe().error(), rel=1e-2)
    if dtype == "float16":
        assert not torch.equal(probe.linears[0].weight / scale, group.probe().linears[0].weight)


@torch.no_grad()
def test_an_exponent_that_is_given_is_kept_while_the_other_is_searched() -> None:
    step = block()
    act, weight = magnitudes(step)
    probe = step.groups[0].probe()
    found = probe.error(Scale(multiplier(FlexSmooth(alpha=0.3, gate=False), step)))
    tried = [probe.error(Scale.dividing_by((act**0.3 / weight ** (i / 20)).float())) for i in range(21)]
    assert found == pytest.approx(min(tried), rel=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("method", [IterSmooth(), FlexSmooth()], ids=lambda method: method.name)
def test_smoothing_that_does_not_pay_is_taken_back(method: Algorithm) -> None:
    step = block()
    group = step.groups[0]
    group.stats["absmax"] = group.stats["absmax"].pow(-3)  # tells the reverse of what the rows are like
    before = group.probe(JUDGED_BY).error()
    method.apply(step)
    taken_back = not group.linears[0].state.transforms
    assert step.rejected[method.name] == int(taken_back)
    assert group.probe(JUDGED_BY).error() <= before
    assert taken_back or method.name == "FlexSmooth"  # which may find exponents that help even so


@torch.no_grad()
@pytest.mark.parametrize(("granularity", "kept"), [("per_channel", True), ("per_tensor", False)])
def test_who_absorbs_a_scale_is_judged_with_whom_it_serves(granularity: Granularity, kept: bool) -> None:
    """One channel that reaches far comes of a row as large as all: to make it small takes its codes where one scale
    serves all rows, and nothing where each has its own."""
    torch.manual_seed(0)
    rows = torch.randn(128, 32)
    rows[:, 0] *= 1000
    weight = torch.randn(32, 32)
    weight[1:, 0] = 0
    before, after = QuantLinear(nn.Linear(32, 32), W8A8), QuantLinear(nn.Linear(32, 32), W8A8)
    before.weight.copy_(weight)
    after.weight[:, 0] *= 1e-3
    before.spec = LayerSpec(weight=TensorSpec(format="int8", granularity=granularity))
    first = Group("b.v", ("b.v",), (before,), (), {"rows": rows})
    second = Group("b.out", ("b.out",), (after,), (("b.v", before),), {"rows": before(rows)})
    step = BlockStep("b", nn.ModuleList([before, after]), [first, second])
    scale = torch.ones(32)
    scale[0] = 1e-3
    assert step.transform_if_better(second, [Scale(scale)], "SmoothQuant") == kept
    assert bool(before.state.out_transforms) == kept and step.rejected["SmoothQuant"] == int(not kept)
