"""GPTQ's solver against what it must equal or beat."""

from __future__ import annotations

import pytest
import torch

from llmc.numerics.clip import least_squares_scales, percentile_scales, shrunk_scales
from llmc.numerics.gptq import Factor, gptq, gptq_on_best_grid, least_squares
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
    damped = gram + torch.diag(0.01 * gram.diagonal())
    spec = TensorSpec.model_validate(grid)
    plain = quantize(weight, spec)
    (solution,) = gptq(
        [weight], Factor.of(gram.clone(), 0.01, act_order), spec, [(plain.scale, plain.zero)], compare=True
    )
    rounded = solution.rounded
    assert solution.errors is not None
    assert solution.errors.sum().item() == pytest.approx(output_error(rounded.dequantize() - weight, damped), rel=1e-3)
    assert output_error(rounded.dequantize() - weight, gram) < 0.8 * output_error(plain.dequantize() - weight, gram)
    assert torch.equal(rounded.scale, plain.scale)


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: f"{grid['format']} {grid['granularity']}")
def test_linears_solved_together_are_those_solved_alone(grid: dict[str, object]) -> None:
    weight, gram = problem(72)
    factor, spec = Factor.of(gram.clone(), 0.01, True), TensorSpec.model_validate(grid)
    parts = [weight[:40].contiguous(), weight[40:].contiguous()]
    grids = [(plain.scale, plain.zero) for plain in (quantize(part, spec) for part in parts)]
    together = gptq(parts, factor, spec, grids)
    for part, found, scale in zip(parts, together, grids, strict=True):
        (alone,) = gptq([part], factor, spec, [scale])
        assert (alone.rounded.dequantize() != found.rounded.dequantize()).float().mean() < 0.01


@pytest.mark.parametrize("grid", [grid for grid in GRIDS if grid["granularity"] != "per_block"], ids=str)
def test_of_several_grids_each_output_channel_gets_the_best(grid: dict[str, object]) -> None:
    weight, gram = problem()
    factor, spec = Factor.of(gram.clone(), 0.01, True), TensorSpec.model_validate(grid)
    grids = shrunk_scales(sliced(weight, spec), spec)
    errors = torch.stack([gptq([weight], factor, spec, [one], compare=True)[0].errors for one in grids])
    (rounded,) = gptq_on_best_grid([weight], factor, spec, [grids])
    change, damped = rounded.dequantize() - weight, gram + torch.diag(0.01 * gram.diagonal())
    torch.testing.assert_close(((change @ damped) * change).sum(1), errors.amin(0), rtol=1e-3, atol=1e-3)
    assert len(set(errors.argmin(0).tolist())) > 1


def test_on_a_grid_that_is_fine_enough_it_returns_the_float_weight() -> None:
    _, gram = problem()
    spec = TensorSpec(format="int8", granularity="per_channel")
    codes = torch.randint(-127, 128, (40, 160), generator=torch.Generator().manual_seed(1)).float()
    weight = codes / 127
    (solution,) = gptq([weight], Factor.of(gram.clone(), 0.01, True), spec, [(torch.full((40, 1), 1 / 127), None)])
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
    found = gptq([weight], Factor.of(gram.clone(), 0.01, False), spec, [(scale, None)])[0].rounded.codes.reshape(
        12, 150
    )
    assert (found.double() != wanted).float().mean() < 0.01  # float32 decides a near tie differently now and then


@pytest.mark.parametrize("act_order", [True, False])
def test_the_factor_is_that_of_the_damped_matrix(act_order: bool) -> None:
    _, gram = problem()
    factor = Factor.of(gram.double(), 0.01, act_order)
    damped = (gram.double() + torch.diag(0.01 * gram.double().diagonal()))[factor.order][:, factor.order]
    pivots = torch.linalg.cholesky(damped).diagonal().square()
    unit = factor.unit.tril(-1) + torch.eye(len(gram), dtype=torch.float64)
    torch.testing.assert_close(unit * pivots @ unit.T, damped, rtol=1e-10, atol=1e-8)
    torch.testing.assert_close(factor.pivots, pivots)
    assert factor.damping == 0.01
    assert torch.equal(factor.gram(), gram.double())


def test_damping_grows_until_a_singular_matrix_can_be_factored() -> None:
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    factor = Factor.of(x.T @ x, 1e-12, True)
    assert factor.damping > 1e-12 and factor.unit.isfinite().all()


def test_a_matrix_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        Factor.of(torch.full((4, 4), torch.nan), 0.01, True)


def test_the_asymmetric_target_is_the_least_squares_solution() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(400, 24, generator=generator, dtype=torch.float64)
    q = x + 0.1 * torch.randn(400, 24, generator=generator, dtype=torch.float64)
    weight = torch.randn(10, 24, generator=generator, dtype=torch.float64)
    wanted = torch.linalg.lstsq(q, x @ weight.T).solution.T
    found = least_squares(weight, x.T @ q, Factor.of(q.T @ q, 1e-14, True))
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)


def test_damping_keeps_the_asymmetric_target_from_fitting_the_few_rows_that_it_saw() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(5000, 24, generator=generator)
    q = 0.8 * x + 0.1 * torch.randn(5000, 24, generator=generator)
    weight = torch.randn(10, 24, generator=generator)
    seen = slice(0, 36)
    gram, cross = q[seen].T @ q[seen], x[seen].T @ q[seen]

    def error(damping: float) -> float:
        found = least_squares(weight, cross, Factor.of(gram.clone(), damping, True))
        return float((q @ found.T - x @ weight.T).square().mean())

    assert error(0.1) < error(0.01) < error(1e-6)
    assert error(0.1) < float(((q - x) @ weight.T).square().mean())  # and still it mends


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
