"""How a trial is judged, and what follows from it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from llmc.calib.group import Group
from llmc.calib.held_out import Fit
from llmc.calib.observers import OBSERVERS, Awaited
from llmc.calib.trial import Seen, Solved, Trial, choose_damping, fits_of
from llmc.layers.linear import QuantLinear
from llmc.numerics.quantize import quantize
from llmc.numerics.spec import LayerSpec, TensorSpec

INT4 = LayerSpec(weight=TensorSpec(format="int4", granularity="per_channel"))
ALL = slice(None)


def seen(layer: QuantLinear, **inputs: tuple[torch.Tensor, torch.Tensor]) -> Seen:
    """Calls in which a layer read something, and would have read something else in the float model."""
    sums = {name: OBSERVERS[name](Awaited(1, 1, layer.in_features, layer.device)) for name in inputs}
    for name, both in inputs.items():
        sums[name].update(*both)
    return Seen(Group("g", ("a",), (layer,), (), sums=sums), "gram")  # type: ignore[arg-type]


def chosen(samples: int, **tried: tuple[float, float]) -> float:
    """Of dampings `of_...`: how many times the error is on calls kept apart, and what it is of plain rounding's."""
    found = {float(name.removeprefix("of_").replace("_", ".")): pair for name, pair in tried.items()}
    return choose_damping(lambda damping: [Fit(1.0, *found[round(damping, 6)])], min(found), samples).damping


def test_what_is_not_overfit_is_damped_as_it_was_asked_to() -> None:
    assert chosen(12, of_0_01=(1.5, 0.3)) == 0.01
    assert chosen(1, of_0_01=(1.5, 0.3)) == 0.01


def test_more_damping_is_taken_where_it_costs_little_on_other_samples() -> None:
    assert chosen(12, of_0_01=(9.0, 0.50), of_0_1=(5.0, 0.40), of_1=(2.0, 0.43)) == 1.0
    assert chosen(12, of_0_01=(9.0, 0.50), of_0_1=(5.0, 0.40), of_1=(2.0, 0.60)) == 0.1
    assert chosen(12, of_0_01=(9.0, 0.30), of_0_1=(1.2, 0.40)) == 0.01


def test_of_a_single_sample_it_is_damped_until_it_is_not_overfit() -> None:
    assert chosen(1, of_0_01=(9.0, 0.1), of_0_1=(5.0, 0.2), of_1=(2.0, 0.3)) == 1.0
    assert chosen(1, of_0_01=(9.0, 0.1), of_0_1=(1.6, 0.2)) == 0.1


@pytest.mark.parametrize(
    ("fit", "of_other_samples", "of_the_same"),
    [
        (Fit(1.0, 1.5, 0.5), True, True),
        (Fit(1.0, 3.0, 0.5), True, False),
        (Fit(1.0, 1.5, 0.9), False, False),
        (Fit(0.0, 0.0, float("inf")), False, False),
    ],
)
def test_a_solution_pays_where_it_is_clearly_better_than_rounding(
    fit: Fit, of_other_samples: bool, of_the_same: bool
) -> None:
    group = Group("g", (), (), ())
    assert Trial(0.01, [fit], is_sure=True).pays(fit, group) == of_other_samples
    assert Trial(0.01, [fit], is_sure=False).pays(fit, group) == of_the_same
    assert not Trial(0.01, [fit], is_sure=False).pays(fit, replace(group, head_width=8))


@torch.no_grad()
def test_errors_are_those_of_the_outputs() -> None:
    torch.manual_seed(0)
    layer, x, y = QuantLinear(nn.Linear(16, 6), INT4), torch.randn(40, 16), torch.randn(9, 16)
    weight = layer.weight.float()
    other = quantize(weight * 0.9, INT4.weight)
    (fit,) = fits_of([layer], [ALL], [Solved(weight, other)], seen(layer, gram=(x, x), gram_apart=(y, y)))

    def error(calls: torch.Tensor, rounded: torch.Tensor) -> float:
        return float((calls @ (weight - rounded).T).square().sum() / (calls @ weight.T).square().sum())

    plain = quantize(weight, INT4.weight).dequantize()
    assert fit.used == pytest.approx(error(x, other.dequantize()), rel=1e-4)
    assert fit.apart == pytest.approx(error(y, other.dequantize()), rel=1e-4)
    assert fit.of_plain == pytest.approx(error(y, other.dequantize()) / error(y, plain), rel=1e-4)


@torch.no_grad()
def test_a_weight_that_only_makes_up_for_errors_before_it_does_not_pay() -> None:
    """Were inputs twice as large as in the float model, half the weight would be right there, and nowhere else."""
    torch.manual_seed(0)
    layer, x = QuantLinear(nn.Linear(16, 6), INT4), torch.randn(40, 16)
    q = 2 * x
    half = layer.weight.float() / 2
    both = seen(layer, gram=(q, q), gram_apart=(q, q), cross=(q, x), cross_apart=(q, x))
    solved = Solved(half, quantize(half, INT4.weight))
    assert fits_of([layer], [ALL], [solved], replace(both, cross="cross"))[0].of_plain > 1
