"""Ranges smaller than the largest magnitude."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from llmc.numerics.clip import RangeRule, act_range
from llmc.numerics.quantize import fake_quantize, static_grid
from llmc.numerics.spec import TensorSpec

STATIC = {
    "int8": TensorSpec(format="int8", granularity="per_tensor", dynamic=False),
    "int8, asymmetric": TensorSpec(format="int8", granularity="per_tensor", symmetric=False, dynamic=False),
    "nvfp4": TensorSpec(format="nvfp4", dynamic=False),
}


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
