"""What every method promises, on a tiny real pipeline of each family."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import pytest
import torch

from llmc.algorithms.base import Algorithm
from llmc.calib.record import record_calls
from llmc.calib.store import CallStore
from llmc.calib.teacher import teacher_forced_errors
from llmc.layers.linear import in_mode
from llmc.models.base import adapters
from llmc.plugin import discover
from llmc.steps.calibrate import calibrate
from llmc.steps.network import layer_errors
from tests.contracts.conftest import Family

METHODS = discover("llmc.algorithms", Algorithm)
CPU = torch.device("cpu")


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_a_method_keeps_the_float_function_and_w8a8_stays_close(family: Family, method: str) -> None:
    """Streamed and at once in turn: that both see the same is a contract of adapters."""
    streamed = (list(METHODS).index(method) + list(adapters()).index(family.adapter.name)) % 2 == 0
    pipeline, networks = family.load()
    stores = {network.part.name: CallStore() for network in networks}
    record_calls(family.adapter, pipeline, [n.part for n in networks], family.planned[:1], stores, keep_outputs=True)
    calibrate((METHODS[method](),), family.adapter, pipeline, networks, family.planned, 64, streamed)
    for network in networks:
        worst = {}
        for mode in ("transformed", "quantized"):
            with in_mode(network.layers.values(), mode):  # type: ignore[arg-type]
                errors = teacher_forced_errors(network.part, stores[network.part.name], CPU)
            worst[mode] = max(error for steps in errors.values() for step in steps.values() for error in step)
        assert worst["transformed"] < 1e-10
        assert 0 < worst["quantized"] < 0.0025
        assert all(layer.state.rounded is not None for layer in network.layers.values())


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_no_layer_ends_worse_than_plain_rounding(family: Family, method: str) -> None:
    """On rows that the calibration kept; half of them were not seen by a search, hence the small allowance."""
    pipeline, networks = family.load()
    calibrate((METHODS[method](),), family.adapter, pipeline, networks, family.planned, 256)
    for network in networks:
        errors = layer_errors(network)
        for group in network.groups:
            found = [errors[name] for name in group.names if name in errors]
            assert sum(e.recipe for e in found) <= 1.05 * sum(e.baseline for e in found), group.names


RECIPES = [
    tuple(names)
    for count in (2, 3)
    for names in permutations(METHODS, count)
    if all("rounded" not in METHODS[name].leaves for name in names[:-1])
]


EVERY_RECIPE = "WanI2V"
IN_TURN = [name for name in sorted(adapters()) if name != EVERY_RECIPE]
CASES = [
    *((EVERY_RECIPE, names) for names in RECIPES),
    *((IN_TURN[i % len(IN_TURN)], names) for i, names in enumerate(RECIPES)),
]


@torch.no_grad()
@pytest.mark.parametrize(("name", "names"), CASES, ids=lambda case: case if isinstance(case, str) else " ".join(case))
def test_methods_compose_in_every_order_that_is_allowed(
    make_family: Callable[[str], Family], name: str, names: tuple[str, ...]
) -> None:
    """Before rounding the float function is kept; with it, the whole stays close at W8A8. Every order is tried on one
    family, and on one of the others in turn."""
    family = make_family(name)
    pipeline, networks = family.load()
    stores = {network.part.name: CallStore() for network in networks}
    record_calls(family.adapter, pipeline, [n.part for n in networks], family.planned[:1], stores, keep_outputs=True)
    recipe = [METHODS[name]() for name in names]
    calibrate(recipe, family.adapter, pipeline, networks, family.planned[:1], 64)
    for network in networks:
        for mode, limit in (("transformed", 1e-9), ("quantized", 0.0025)):
            with in_mode(network.layers.values(), mode):  # type: ignore[arg-type]
                errors = teacher_forced_errors(network.part, stores[network.part.name], CPU)
            assert max(error for steps in errors.values() for step in steps.values() for error in step) < limit
