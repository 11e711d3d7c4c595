"""Ranges smaller than the largest magnitude, and the search for them, which ends early."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from llmc.numerics import clip
from llmc.numerics.clip import RangeRule, act_range
from llmc.numerics.quantize import fake_quantize, sliced, static_grid
from llmc.numerics.spec import TensorSpec

STATIC = {
    "int8": TensorSpec(format="int8", granularity="per_tensor", dynamic=False),
    "int8, asymmetric": TensorSpec(format="int8", granularity="per_tensor", symmetric=False, dynamic=False),
    "nvfp4": TensorSpec(format="nvfp4", dynamic=False),
}
WEIGHTS = {
    "normal": torch.distributions.Normal(0.0, 0.02),
    "uniform": torch.distributions.Uniform(-0.1, 0.1),
    "laplace": torch.distributions.Laplace(0.0, 1.0),
    "heavy tails": torch.distributions.StudentT(4.0),
}
INTEGERS = [(name, symmetric) for name in ("int8", "int6", "int4", "int3", "int2") for symmetric in (True, False)]


@pytest.mark.parametrize("rule", get_args(RangeRule))
@pytest.mark.parametrize("grid", STATIC)
def test_every_rule_gives_every_static_act_a_grid_that_loses_little(grid: str, rule: RangeRule) -> None:
    rows = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))
    rows[0, 0] = 6.0
    spec = STATIC[grid]
    low, high = act_range(rows, spec, rule, 99.9)
    assert rows.min() <= low < 0 < high <= rows.max()
    fixed = static_grid(low, high, spec)
    assert len(fixed) == (3 if grid == "nvfp4" else 2)
    error = (fake_quantize(rows, spec, *fixed) - rows).square().mean().sqrt()
    assert error < (0.15 if grid == "nvfp4" else 0.03)


def test_the_least_squared_error_cuts_off_a_lonely_outlier() -> None:
    rows = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))
    rows[0, 0] = 60.0
    spec = STATIC["int8"].model_copy(update={"format": TensorSpec(format="int4", granularity="per_tensor").format})
    errors = {rule: (fake_quantize(rows, spec, *static_grid(*act_range(rows, spec, rule, 99.99), spec)) - rows)
              for rule in get_args(RangeRule)}  # fmt: skip
    assert errors["mse"].square().sum() < 0.5 * errors["absmax"].square().sum()


@pytest.mark.parametrize(("grid", "symmetric"), [*INTEGERS, ("fp8_e4m3", True), ("fp8_e5m2", True)])
@pytest.mark.parametrize("group", [None, 64])
def test_a_search_that_ends_early_finds_the_same_ranges(
    grid: str, group: int | None, symmetric: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    granularity = "per_channel" if group is None else "per_group"
    spec = TensorSpec(format=grid, granularity=granularity, group_size=group, symmetric=symmetric)
    torch.manual_seed(0)
    for name, weights in WEIGHTS.items():
        slices = sliced(weights.sample((48, 512)), spec)
        found = clip.least_squares_scales(slices, spec)
        monkeypatch.setattr(clip, "IN_VAIN", len(clip.SHRINKS))
        wanted = clip.least_squares_scales(slices, spec)
        monkeypatch.undo()
        for one, other in zip(found, wanted, strict=True):
            assert (one is None and other is None) or torch.equal(one, other), name


def test_eight_bits_are_not_searched_to_the_end() -> None:
    tried = []

    def error(shrink: float) -> tuple[clip.Grid, torch.Tensor]:
        tried.append(shrink)
        return (torch.tensor([[shrink]]).double(), None), torch.tensor([[abs(shrink - 0.9)]])

    scale, _ = clip._best(error, clip.IN_VAIN)
    assert abs(scale.item() - 0.9) < 1e-6 and tried == list(clip.SHRINKS[:5])
    tried.clear()
    clip._best(error)
    assert tried == list(clip.SHRINKS)
