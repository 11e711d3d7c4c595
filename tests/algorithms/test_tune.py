"""Blocks that learn what they are rounded to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from llmc.algorithms.gptq import GPTQ
from llmc.algorithms.lowrank import LowRank
from llmc.algorithms.rtn import RTN
from llmc.algorithms.tune import Tune
from llmc.calib.teacher import teacher_forced_errors
from llmc.engine.calibrate import CalibrationPlan, calibrate
from llmc.engine.network import Network
from llmc.layers.linear import LayerState, in_mode
from llmc.models.loaded import LoadedModel
from llmc.numerics.spec import LayerSpec, TensorSpec
from tests.contracts.conftest import Family, make_family  # noqa: F401

W4A8 = LayerSpec(
    weight=TensorSpec(format="int4", granularity="per_channel"), act=TensorSpec(format="int8", granularity="per_token")
)
QUICK = Tune(steps=20, rounding=1e-2)


def tuned(family: Family, *recipe: object, samples: int = 2) -> list[Network]:
    """The family's networks after a recipe, and whether each block changed."""
    pipeline, networks = family.load(spec=W4A8, recipe=recipe)  # type: ignore[arg-type]
    calibrate(LoadedModel(family.adapter, pipeline), networks, CalibrationPlan(family.planned[:samples], 64))
    return networks


def states(networks: list[Network]) -> list[LayerState]:
    return [layer.state for network in networks for layer in network.layers.values()]


def same(one: LayerState, other: LayerState) -> bool:
    """To the bit, in all that can be learned."""
    pairs = [(one.rounded.codes, other.rounded.codes), (one.rounded.scale, other.rounded.scale)]
    pairs += zip((one.bias, *(one.lowrank or ())), (other.bias, *(other.lowrank or ())), strict=True)
    return all(mine is theirs is None or torch.equal(mine, theirs) for mine, theirs in pairs)


def error(family: Family, networks: list[Network]) -> float:
    """On the calls of the first sample."""
    total = 0.0
    for network in networks:
        with in_mode(network.layers.values(), "quantized"):
            found = teacher_forced_errors(network.part, family.float_calls[network.part.name], torch.device("cpu"))
        total += sum(error for steps in found.values() for step in steps.values() for error in step)
    return total


@pytest.mark.parametrize("name", ["WanI2V", pytest.param("HunyuanVideo", marks=pytest.mark.slow)])
def test_a_tuned_network_is_nearer_to_float_and_the_same_each_time(
    name: str,
    make_family: Callable[[str], Family],  # noqa: F811
) -> None:
    family = make_family(name)
    before, after = tuned(family, LowRank(), RTN()), tuned(family, LowRank(), RTN(), QUICK)
    assert not all(map(same, states(before), states(after)))
    assert error(family, after) < error(family, before)
    assert all(map(same, states(after), states(tuned(family, LowRank(), RTN(), QUICK))))


def test_of_one_sample_nothing_is_learned_and_the_report_counts_it(
    make_family: Callable[[str], Family],  # noqa: F811
) -> None:
    family = make_family("WanI2V")
    before, after = tuned(family, GPTQ(), samples=1), tuned(family, GPTQ(), QUICK, samples=1)
    assert all(map(same, states(before), states(after)))
    (network,) = after
    counted = sum(sum(block.rejected.values()) for block in network.blocks if "Tune" in str(block.rejected))
    assert counted >= len(network.blocks)


def test_no_parameter_of_the_network_is_left_changed_or_waiting_for_gradients(
    make_family: Callable[[str], Family],  # noqa: F811
) -> None:
    family = make_family("WanI2V")
    (network,) = tuned(family, RTN(), QUICK)
    pipeline = family.pipeline()
    (part,) = family.adapter.parts(pipeline)
    for (name, mine), (_, float_one) in zip(
        sorted(network.part.module.state_dict().items()), sorted(part.module.state_dict().items()), strict=True
    ):
        assert torch.equal(mine, float_one), name
    assert all(parameter.grad is None for parameter in network.part.module.parameters())
