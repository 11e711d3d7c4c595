"""GPTQ's solver against what it must equal or beat."""

from __future__ import annotations

import pytest
import torch

from llmc.numerics.clip import least_squares_scales, percentile_scales
from llmc.numerics.gptq import gptq, inverse_factor, least_squares, spread
from llmc.numerics.quantize import quantize, scales, sliced
from llmc.numerics.spec import TensorSpec

GRIDS = [
    {"format": "int4", "granularity": "per_channel"},
    {"format": "int4", "granularity": "per_group", "group_size": 16, "symmetric": False},
    {"format": "fp8_e4m3", "granularity": "per_channel"},
    {"format": "int8", "granularity": "per_block", "group_size": 32},
    {"format": "mxfp4", "granularity": "per_group", "group_size": 32},
    {"format": "nvfp4", "granularity": "per_group", "group_size": 16},
]


def problem(rows: int = 40, columns: int = 160) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(columns, columns, generator=generator) / columns**0.5
    x = torch.randn(4 * columns, columns, generator=generator) @ mixing + torch.randn(1, columns, generator=generator)
    return torch.randn(rows, columns, generator=generator), x.T @ x


def output_error(change: torch.Tensor, gram: torch.Tensor) -> float:
    return float(((change @ gram) * change).sum())


@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: f"{grid['format']} {grid['granularity']}")
def test_it_beats_plain_rounding_on_the_same_grid(grid: dict[str, object], act_order: bool) -> None:
    weight, gram = problem()
    spec = TensorSpec.model_validate(grid)
    plain = quantize(weight, spec)
    solution = gptq(weight, gram, spec, plain.scale, plain.zero, 0.01, act_order)
    assert output_error(solution.rounded.dequantize() - weight, gram) < 0.8 * output_error(
        plain.dequantize() - weight, gram
    )
    assert torch.equal(solution.rounded.scale, plain.scale)


def test_on_a_grid_that_is_fine_enough_it_returns_the_float_weight() -> None:
    _, gram = problem()
    spec = TensorSpec(format="int8", granularity="per_channel")
    codes = torch.randint(-127, 128, (40, 160), generator=torch.Generator().manual_seed(1)).float()
    weight = codes / 127
    solution = gptq(weight, gram, spec, torch.full((40, 1), 1 / 127), None, 0.01, True)
    assert torch.equal(solution.rounded.codes.float().reshape(40, 160), codes)


def test_it_solves_what_a_plain_loop_solves() -> None:
    """The textbook form in float64: one column after the other, the inverse updated by elimination."""
    weight, gram = problem(12, 150)
    spec = TensorSpec(format="int4", granularity="per_channel")
    scale, _ = scales(sliced(weight, spec), spec)
    damped = gram.double() + torch.diag(0.01 * gram.double().diagonal())
    left, inverse = weight.double().clone(), torch.linalg.inv(damped)
    wanted = torch.empty_like(left)
    for k in range(150):
        wanted[:, k] = (left[:, k] / scale[:, 0]).round().clamp(-7, 7)
        error = (left[:, k] - wanted[:, k] * scale[:, 0]) / inverse[k, k]
        left -= error[:, None] * inverse[k]
        inverse -= inverse[:, k : k + 1] @ inverse[k : k + 1] / inverse[k, k].clone()
    found = gptq(weight, gram, spec, scale, None, 0.01, False).rounded.codes.reshape(12, 150)
    assert (found.double() != wanted).float().mean() < 0.01  # float32 decides a near tie differently now and then


def test_the_factor_is_that_of_the_inverse() -> None:
    _, gram = problem()
    factor, damping = inverse_factor(gram.double(), 0.01)
    damped = gram.double() + torch.diag(0.01 * gram.double().diagonal())
    torch.testing.assert_close(factor.T @ factor @ damped, torch.eye(160, dtype=torch.float64), rtol=0, atol=1e-8)
    assert damping == 0.01 and factor.equal(factor.triu())


def test_damping_grows_until_a_singular_matrix_can_be_factored() -> None:
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    factor, damping = inverse_factor(x.T @ x, 1e-12)
    assert damping > 1e-12 and factor.isfinite().all()


def test_the_asymmetric_target_is_the_least_squares_solution() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(400, 24, generator=generator, dtype=torch.float64)
    q = x + 0.1 * torch.randn(400, 24, generator=generator, dtype=torch.float64)
    weight = torch.randn(10, 24, generator=generator, dtype=torch.float64)
    wanted = torch.linalg.lstsq(q, x @ weight.T).solution.T
    torch.testing.assert_close(least_squares(weight, q.T @ q, x.T @ q, 1e-14), wanted, rtol=1e-9, atol=1e-9)


def test_a_range_of_least_squared_error_is_never_worse_than_the_whole_range() -> None:
    weight, _ = problem()
    weight[:, 0] *= 8
    spec = TensorSpec(format="int4", granularity="per_channel")
    slices = sliced(weight, spec)
    errors = {}
    for name, chosen in {"mse": least_squares_scales(slices, spec), "whole": scales(slices, spec)}.items():
        errors[name] = (quantize(weight, spec, *chosen).dequantize() - weight).square().sum(1)
    assert (errors["mse"] <= errors["whole"]).all() and errors["mse"].sum() < 0.85 * errors["whole"].sum()


def test_a_percentile_leaves_out_the_largest_magnitudes() -> None:
    spec = TensorSpec(format="int8", granularity="per_channel")
    slices = torch.arange(1.0, 101.0)[None]
    scale, _ = percentile_scales(slices, spec, 90)
    assert scale.item() == pytest.approx(90 / 127)


def test_spreading_gives_each_element_its_own_slice() -> None:
    spec = TensorSpec(format="int4", granularity="per_group", group_size=4)
    values = torch.arange(6.0)[:, None]
    assert torch.equal(spread(values, spec, (2, 12)), torch.arange(6.0).repeat_interleave(4).reshape(2, 12))
