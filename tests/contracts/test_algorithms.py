"""What every method promises, on a tiny real pipeline of each family."""

from __future__ import annotations

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
@pytest.mark.parametrize("streamed", [False, True], ids=["at once", "streamed"])
@pytest.mark.parametrize("method", METHODS)
def test_a_method_keeps_the_float_function_and_w8a8_stays_close(family: Family, method: str, streamed: bool) -> None:
    pipeline, networks = family.load(recipe=(METHODS[method](),))
    stores = {network.part.name: CallStore() for network in networks}
    record_calls(family.adapter, pipeline, [n.part for n in networks], family.planned[:1], stores, keep_outputs=True)
    calibrate(family.adapter, pipeline, networks, family.planned, 64, streamed)
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
    pipeline, networks = family.load(recipe=(METHODS[method](),))
    calibrate(family.adapter, pipeline, networks, family.planned, 256)
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
# every order on one family, the longest useful one on all others: what composes does not know the family
COMPOSED = [("WanI2V", names) for names in RECIPES]
COMPOSED += [(name, ("SmoothQuant", "LowRank", "GPTQ")) for name in adapters() if name != "WanI2V"]


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "names"),
    COMPOSED,
    indirect=["family"],
    ids=[f"{family}-{' '.join(names)}" for family, names in COMPOSED],
)
def test_methods_compose_in_every_order_that_is_allowed(family: Family, names: tuple[str, ...]) -> None:
    """Before rounding the float function is kept; with it, the whole stays close at W8A8."""
    pipeline, networks = family.load(recipe=[METHODS[name]() for name in names])
    stores = {network.part.name: CallStore() for network in networks}
    record_calls(family.adapter, pipeline, [n.part for n in networks], family.planned[:1], stores, keep_outputs=True)
    calibrate(family.adapter, pipeline, networks, family.planned[:1], 64)
    for network in networks:
        for mode, limit in (("transformed", 1e-9), ("quantized", 0.0025)):
            with in_mode(network.layers.values(), mode):  # type: ignore[arg-type]
                errors = teacher_forced_errors(network.part, stores[network.part.name], CPU)
            assert max(error for steps in errors.values() for step in steps.values() for error in step) < limit
