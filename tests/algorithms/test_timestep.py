"""A static scale for each denoising step, on a tiny real pipeline."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from llmc.__main__ import main
from llmc.algorithms.base import Algorithm
from llmc.algorithms.smoothquant import SmoothQuant
from llmc.algorithms.static import Static
from llmc.algorithms.timestep import Timestep
from llmc.calib.record import record_calls
from llmc.calib.samples import read_samples
from llmc.calib.store import CallStore
from llmc.calib.teacher import relative_error, teacher_forced_errors
from llmc.engine.blocks import quantize_on_calls
from llmc.engine.calibrate import CalibrationPlan, calibrate
from llmc.engine.network import Network, prepare
from llmc.layers.linear import LayerState, QuantLinear, in_mode
from llmc.layers.steps import at_step, running_step
from llmc.ledger.coverage import filled_steps
from llmc.models.loaded import LoadedModel
from llmc.models.samples import Sample, Sampling
from llmc.models.wan import WanI2V
from llmc.numerics.quantize import static_grid
from llmc.numerics.spec import LayerSpec, TensorSpec
from llmc.policy.rules import Policy
from tests.end_to_end.small_run import small_config
from tests.tiny_pipelines import save_samples, save_wan_i2v

CPU = torch.device("cpu")
STEPS = 3


def grid(symmetric: bool = True) -> LayerSpec:
    return LayerSpec(
        weight=TensorSpec(format="int8", granularity="per_channel"),
        act=TensorSpec(format="int8", granularity="per_tensor", dynamic=False, symmetric=symmetric),
    )


class Float:
    """A float pipeline, and its calls in so many steps, recorded once."""

    def __init__(self, folder: Path) -> None:
        save_wan_i2v(folder / "model")
        save_samples(folder / "samples")
        self.samples = list(enumerate(read_samples(folder / "samples", needs_image=True)))
        self.pipeline: Any = WanI2V().load(folder / "model", "auto", "cpu")
        self.calls = cache(self._calls)

    def planned(self, steps: int) -> list[tuple[int, Sample, Sampling]]:
        sampling = Sampling(height=32, width=32, num_frames=5, steps=steps, guidance_scale=2.0, seed=3)
        return [(index, sample, sampling) for index, sample in self.samples]

    def _calls(self, steps: int) -> CallStore:
        calls, (part,) = CallStore(), WanI2V().parts(self.pipeline)
        record_calls(
            LoadedModel(WanI2V(), self.pipeline), [part], self.planned(steps), {part.name: calls}, keep_outputs=True
        )
        return calls


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> Float:
    return Float(tmp_path_factory.mktemp("wan"))


class Quantized:
    """A pipeline after a recipe, and the calls of the float run that it was calibrated on."""

    def __init__(
        self, floats: Float, recipe: Sequence[Algorithm], steps: int = STEPS, streamed: bool = False,
        symmetric: bool = True,
    ) -> None:  # fmt: skip
        pipeline, self.calls = deepcopy(floats.pipeline), floats.calls(steps)
        (part,) = WanI2V().parts(pipeline)
        self.network: Network = prepare(part, Policy(grid(symmetric)), (), recipe)
        calibrate(
            LoadedModel(WanI2V(), pipeline),
            [self.network],
            CalibrationPlan(floats.planned(steps), 64, streamed=streamed),
        )

    def reaches(self) -> dict[str, dict[int, list[tuple[float, float]]]]:
        """What each linear reads in its present basis in the float model: layer -> step -> (low, high) of each call."""
        found: dict[str, dict[int, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))

        def note(name: str, layer: QuantLinear, x: torch.Tensor) -> None:
            x = layer.prepare(x)
            found[name][running_step()].append((float(x.min()), float(x.max())))

        layers = self.network.layers
        hooks = [
            layer.register_forward_pre_hook(lambda layer, args, name=name: note(name, layer, args[0]))
            for name, layer in layers.items()
        ]
        with torch.no_grad(), in_mode(layers.values(), "transformed"):
            for call in self.calls.calls(CPU):
                with at_step(call.step):
                    self.network.part.module(*call.args, **call.kwargs)
        for hook in hooks:
            hook.remove()
        return found

    def error(self) -> float:
        with in_mode(self.network.layers.values(), "quantized"):
            errors = teacher_forced_errors(self.network.part, self.calls, CPU)
        return fmean(error for steps in errors.values() for calls in steps.values() for error in calls)


@pytest.mark.parametrize(("streamed", "smoothed"), [(False, True), (True, False)], ids=["smoothed", "streamed"])
def test_each_row_reaches_as_far_as_the_calls_of_its_step(floats: Float, streamed: bool, smoothed: bool) -> None:
    before = (SmoothQuant(gate=False),) if smoothed else ()
    quantized = Quantized(floats, (*before, Timestep(range="absmax")), streamed=streamed)
    reaches = quantized.reaches()
    for name, layer in quantized.network.layers.items():
        assert layer.state.steps is not None and layer.state.steps.filled == ()
        wanted = [max(max(-low, high) for low, high in reaches[name][step]) / 127 for step in range(STEPS)]
        assert layer.state.steps.scale.tolist() == pytest.approx(wanted, rel=2e-5), name


def test_an_asymmetric_row_spans_its_step(floats: Float) -> None:
    quantized = Quantized(floats, (Timestep(range="absmax"),), symmetric=False)
    reaches = quantized.reaches()
    for name, layer in quantized.network.layers.items():
        steps = layer.state.steps
        assert steps is not None and steps.zero is not None
        for step in range(STEPS):
            low = min(0.0, *(low for low, _ in reaches[name][step]))
            high = max(0.0, *(high for _, high in reaches[name][step]))
            assert float(steps.scale[step]) == pytest.approx((high - low) / 255, rel=1e-5), name
            assert float(steps.zero[step]) == pytest.approx(round(-low / ((high - low) / 255)) - 128, abs=1), name


@pytest.mark.parametrize(("rule", "symmetric"), [("absmax", True), ("output", False)])
def test_with_one_step_it_is_static(floats: Float, rule: Any, symmetric: bool) -> None:
    ours = Quantized(floats, (Timestep(range=rule),), steps=1, symmetric=symmetric)
    one = Quantized(floats, (Static(range=rule),), steps=1, symmetric=symmetric)
    for name, layer in ours.network.layers.items():
        static = one.network.layers[name].state.static
        assert static is not None and static[0] is not None and layer.state.steps is not None
        assert torch.equal(layer.state.steps.scale, static[0].reshape(-1)), name
        zero = layer.state.steps.zero
        assert (zero is None) == symmetric and (zero is None or torch.equal(zero, static[1].reshape(-1)))  # type: ignore[union-attr]
    assert ours.error() == one.error() > 0


def test_judging_takes_each_call_in_its_own_step(floats: Float) -> None:
    quantized = Quantized(floats, (Timestep(),))
    with in_mode(quantized.network.layers.values(), "quantized"):
        found = teacher_forced_errors(quantized.network.part, quantized.calls, CPU)
        for call in quantized.calls.calls(CPU):
            errors = []
            for step in range(STEPS):
                with torch.no_grad(), at_step(step):
                    output = quantized.network.part.module(*call.args, **call.kwargs)[0]
                errors.append(relative_error(output, call.output[0]))
            assert errors[call.step] in found[call.sample][call.step]
            assert len(set(errors)) == STEPS


def test_the_true_reach_beats_the_mean_of_those_of_the_calls(floats: Float) -> None:
    quantized = Quantized(floats, (Static(range="absmax"),))
    error, reaches = quantized.error(), quantized.reaches()
    for name, layer in quantized.network.layers.items():
        calls = [ends for step in reaches[name].values() for ends in step]
        low, high = (torch.tensor(fmean(ends)) for ends in zip(*calls, strict=True))
        assert layer.spec.act is not None
        layer.state = replace(layer.state, static=static_grid(low, high, layer.spec.act))
    assert error < quantized.error()


def test_layers_are_judged_by_rows_in_the_steps_that_they_are_of(floats: Float) -> None:
    ours, one = Quantized(floats, (Timestep(range="absmax"),)), Quantized(floats, (Static(range="absmax"),))
    errors = [fmean(error.recipe for error in each.network.errors.values()) for each in (ours, one)]
    assert errors[0] < errors[1]


def test_what_no_call_told_of_is_said(floats: Float) -> None:
    quantized = Quantized(floats, (Timestep(),))
    assert filled_steps([quantized.network]) == []
    network = replace(quantized.network, recipe=(Timestep(),))
    for layer in network.layers.values():
        layer.state = LayerState()
    for block in network.blocks:
        block.steps = 6
    quantize_on_calls(network, quantized.calls.where(lambda call: call.step != 1), 64)
    assert filled_steps([network]) == [
        "transformer was not called in the steps 1,3-5: they have the act scales of the nearest step"
    ]


def test_a_whole_run_judges_with_the_rows_and_writes_a_float_pipeline(tmp_path: Path) -> None:
    static = {"bit": 8, "granularity": "per_tensor", "static": True}
    method = [{"name": "SmoothQuant", "alpha": 0.5}, {"name": "Timestep", "timestep_sep": 1}]
    quant = {"video_gen": {"method": method, "weight": {"bit": 8}, "act": static}}
    config = small_config(tmp_path, quant=quant, save={"save_lightx2v": False, "save_fake": True})
    assert main(["run", "--config", str(config)]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["warnings"] == []
    assert 0 < results["metrics"]["fake_quant"]["teacher_forced_error"] < 0.01
