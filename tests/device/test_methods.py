"""Every method, as it is and with each choice that its settings offer, on a device that is not the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Literal, get_args, get_origin

import pytest
import torch

from llmc.algorithms.base import Algorithm
from llmc.calib.teacher import every_error, teacher_forced_errors
from llmc.engine.calibrate import CalibrationPlan, calibrate
from llmc.layers.linear import in_mode
from llmc.models.loaded import LoadedModel
from llmc.numerics.spec import LayerSpec, TensorSpec
from llmc.plugin import discover
from tests.device.conftest import Tiny
from tests.slices import slow_if

METHODS = discover("llmc.algorithms", Algorithm)
PER_TENSOR = {"format": "int8", "granularity": "per_tensor", "dynamic": False}
INT8 = TensorSpec(format="int8", granularity="per_channel")
GRIDS = {
    "per token": LayerSpec(weight=INT8, act=TensorSpec(format="int8", granularity="per_token")),
    "static": LayerSpec(weight=INT8, act=TensorSpec(**PER_TENSOR)),
    "asymmetric": LayerSpec(weight=INT8, act=TensorSpec(**PER_TENSOR, symmetric=False)),
    "groups": LayerSpec(
        weight=TensorSpec(format="int4", granularity="per_group", group_size=32, symmetric=False),
        act=TensorSpec(format="mxfp8"),
    ),
}
BY_DEFAULT = {"SmoothQuant, per token", "GPTQ (target asymmetric), groups", "Timestep, asymmetric"}


def choices(method: type[Algorithm]) -> Iterator[Algorithm]:
    """With its defaults, and with every other word that a setting of it takes."""
    yield method()
    for name, field in method.model_fields.items():
        for kind in [field.annotation, *get_args(field.annotation)]:
            words = get_args(kind) if name != "name" and get_origin(kind) is Literal else ()
            yield from (method(**{name: word}) for word in words if word != field.default)


def cases() -> Iterator[object]:
    for method in chain.from_iterable(map(choices, METHODS.values())):
        for grids in GRIDS:
            name = f"{method.label()}, {grids}"
            yield pytest.param(method, GRIDS[grids], id=name, marks=slow_if(name not in BY_DEFAULT))


@torch.no_grad()
@pytest.mark.parametrize(("method", "grids"), list(cases()))
def test_a_method_keeps_the_float_function_and_stays_close(
    method: Algorithm, grids: LayerSpec, device: torch.device, tiny: Tiny
) -> None:
    assert judged(tiny, device, grids, [METHODS["RTN"](), method] if repairs(method) else [method]) < 0.05


def repairs(method: Algorithm) -> bool:
    """Whether it works on what rounding left."""
    return getattr(method, "of", None) == "error"


def judged(tiny: Tiny, device: torch.device, grids: LayerSpec, recipe: Sequence[Algorithm]) -> float:
    """The error of the quantized network on its float calls, after it was calibrated; that of its changes of basis
    alone is nearly none."""
    pipeline, network, calls = tiny.load(device, grids, recipe)
    calibrate(LoadedModel(tiny.adapter, pipeline), [network], CalibrationPlan(tiny.planned, 64))
    found = {}
    for mode in ("transformed", "quantized"):
        with in_mode(network.layers.values(), mode):
            errors = teacher_forced_errors(network.part, calls, device)
        found[mode] = max(every_error(errors))
    assert found["transformed"] < 1e-9
    return found["quantized"]
