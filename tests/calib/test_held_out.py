"""What of a calibration is kept apart."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llmc.calib.group import Group
from llmc.calib.held_out import Apart, Fit, overfit
from llmc.calib.observation import Observation
from llmc.calib.running import at_call
from llmc.calib.store import Call
from llmc.layers.linear import QuantLinear
from llmc.layers.transforms import Scale
from llmc.numerics.spec import LayerSpec


@pytest.mark.parametrize(
    ("samples", "apart"),
    [((), set()), ((4,), set()), ((0, 1), {1}), (range(4), {2}), (range(12), {2, 7}), ((9, 30, 7, 8), {9})],
)
def test_one_in_five_samples_is_and_of_few_one(samples: list[int], apart: set[int]) -> None:
    assert Apart.of(samples).samples == apart


@pytest.mark.parametrize(("tokens", "count"), [(0, 0), (2, 0), (3, 1), (16, 3), (25, 5), (1000, 200)])
def test_of_a_single_sample_the_same_tokens_are_in_every_call(tokens: int, count: int) -> None:
    x = torch.arange(tokens).reshape(1, tokens, 1)
    used, apart = Apart.of([0]).parted(x, sample=0)
    assert apart.shape == (1, count, 1)
    assert sorted(torch.cat([used, apart], 1).flatten().tolist()) == list(range(tokens))


def test_neighbours_are_kept_apart_together() -> None:
    _, apart = Apart.of([0]).parted(torch.arange(1000)[:, None], sample=0)
    assert int((apart.diff(dim=0) == 1).sum()) == 200 - 5  # five runs


@torch.no_grad()
@pytest.mark.parametrize("samples", [[0], [0, 1, 2]], ids=["tokens", "samples"])
def test_both_shares_together_are_all_that_was_seen(samples: list[int]) -> None:
    layer = QuantLinear(nn.Linear(8, 4), LayerSpec())
    group = Group("g", ("linear",), (layer,), ())
    needs = frozenset({"gram", "gram_apart", "cross64", "cross64_apart", "absmax"})
    observation = Observation([group], needs, 3, 64, samples=samples)
    inputs = torch.randn(3, 2, 30, 8)
    for number, x in enumerate(inputs):
        with at_call(Call(samples[number % len(samples)], 0, None, "", number=number)):
            observation.see("g", x, 2 * x)
    observation.attach()
    whole = inputs.reshape(-1, 8)
    assert torch.equal(group.absmax(), whole.abs().amax(0))
    layer.transform(Scale(torch.linspace(0.5, 2, 8)))
    scaled = whole * torch.linspace(0.5, 2, 8)
    torch.testing.assert_close(group.second_moment("gram"), scaled.T @ scaled, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(group.second_moment("cross64").float(), 2 * scaled.T @ scaled, rtol=1e-4, atol=1e-4)
    used, apart = group.moment("gram"), group.moment("gram_apart")
    assert 0 < float(apart.trace()) < float(used.trace())


def test_overfit_is_told_of_each_weight_and_of_all() -> None:
    fits = [Fit(used=1.0, apart=2.0, of_plain=0.5), Fit(used=3.0, apart=12.0, of_plain=0.5)]
    assert [fit.overfit for fit in fits] == [2.0, 4.0] and overfit(fits) == 3.5
    assert Fit(0.0, 1.0, 1.0).overfit is None and overfit([]) is None
