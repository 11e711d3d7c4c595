"""Which step runs, and what a layer with a grid for each step makes of it."""

from __future__ import annotations

from contextvars import Context
from dataclasses import replace

import pytest
import torch
from torch import nn

from llmc.errors import CalibrationError, UnsupportedSpec
from llmc.layers.linear import QuantLinear, in_mode
from llmc.layers.steps import StepGrids, at_step, running_step, start_step
from llmc.layers.transforms import Scale
from llmc.numerics.quantize import fake_quantize, static_grid
from llmc.numerics.spec import LayerSpec, TensorSpec

RANGES = {step: torch.tensor([-1.0 - step, 2.0 + step]) for step in (0, 1, 4)}


def act(symmetric: bool = True, format: str = "int8") -> TensorSpec:
    return TensorSpec(format=format, granularity="per_tensor", dynamic=False, symmetric=symmetric)


def layer(spec: TensorSpec, dynamic_below: int = 0) -> tuple[QuantLinear, torch.Tensor]:
    torch.manual_seed(0)
    weight = TensorSpec(format="int8", granularity="per_channel")
    linear = QuantLinear(nn.Linear(32, 24), LayerSpec(weight=weight, act=spec))
    linear.state = replace(linear.state, steps=StepGrids.of(RANGES, spec, 6, dynamic_below))
    linear.round()
    return linear, torch.randn(2, 7, 32)


def test_a_step_that_nobody_set_is_an_error_and_not_the_first() -> None:
    def ask() -> None:
        with pytest.raises(CalibrationError, match="start_step"):
            running_step()

    Context().run(ask)  # an empty one: other tests may have set a step


@pytest.mark.parametrize("step", [-1, 2.0, True, torch.tensor(3)])
def test_a_step_is_a_number_from_0_on(step: object) -> None:
    with pytest.raises(CalibrationError, match="; give its number as an int, the first one is 0"):
        start_step(step)  # type: ignore[arg-type]


def test_a_loop_of_ones_own_sets_the_step_that_layers_ask_for() -> None:
    linear, x = layer(act())
    with torch.no_grad(), in_mode([linear], "quantized"), at_step(4):
        wanted = linear(x)
        start_step(0)
        other = linear(x)
        start_step(4)
        assert torch.equal(linear(x), wanted) and not torch.equal(other, wanted)


@torch.no_grad()
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("mode", ["quantized", "real"])
def test_a_layer_rounds_its_input_to_the_row_of_the_running_step(symmetric: bool, mode: str) -> None:
    spec = act(symmetric)
    linear, x = layer(spec)
    assert linear.state.rounded is not None
    weight = linear.state.rounded.dequantize()
    for step in RANGES:
        with in_mode([linear], mode), at_step(step):  # type: ignore[arg-type]
            found = linear(x)
        rounded = fake_quantize(x, spec, *static_grid(*RANGES[step], spec))
        torch.testing.assert_close(found, nn.functional.linear(rounded, weight, linear.bias), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_steps_before_the_separation_measure_a_scale_for_each_token() -> None:
    linear, x = layer(act(symmetric=False), dynamic_below=1)
    per_token = TensorSpec(format="int8", granularity="per_token")
    with at_step(0):
        assert linear.act() == (per_token, ())
    with at_step(1):
        assert linear.act()[0] == linear.spec.act
    assert linear.state.steps is not None and linear.spec.act is not None
    rows, steps = x.flatten(0, 1), torch.arange(14) % 2
    rounded = linear.state.steps.rounded(rows, steps, linear.spec.act)
    assert torch.equal(rounded[steps == 0], fake_quantize(rows[steps == 0], per_token))
    with at_step(1):
        spec, grid = linear.act()
    assert torch.equal(rounded[steps == 1], fake_quantize(rows[steps == 1], spec, *grid))


def test_a_step_without_a_call_has_the_row_of_the_nearest_and_is_named() -> None:
    grids = StepGrids.of(RANGES, act(), 6)
    assert grids.filled == (2, 3, 5)
    assert [float(scale * 127) for scale in grids.scale] == pytest.approx([2, 3, 3, 6, 6, 6])


def test_a_step_beyond_the_schedule_is_refused() -> None:
    with pytest.raises(CalibrationError, match="step 6 runs, and the calibration gave scales for the steps 0 to 5"):
        StepGrids.of(RANGES, act(), 6).row(6)


def test_a_format_that_measures_groups_has_no_rows() -> None:
    with pytest.raises(UnsupportedSpec, match="nvfp4 measures"):
        StepGrids.of(RANGES, TensorSpec(format="nvfp4", dynamic=False), 6)


def test_the_basis_of_an_input_cannot_change_once_its_scale_is_fixed() -> None:
    linear, _ = layer(act())
    linear.state = replace(linear.state, rounded=None)
    with pytest.raises(RuntimeError, match="scales of its input are fixed"):
        linear.transform(Scale(torch.ones(32)))
