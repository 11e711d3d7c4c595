"""How often a host waits for the device, and gives it something: for many tokens as often as for few."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from llmc.algorithms.gptq import GPTQ
from llmc.algorithms.smoothquant import SmoothQuant
from llmc.calib.observation import Observation
from llmc.calib.observers import OBSERVERS
from llmc.calib.running import at_call
from llmc.calib.store import Call, CallStore
from llmc.calib.stream import BlockStream, Observing
from llmc.engine.network import Network, quantize_block
from llmc.judging.replay import replay
from llmc.layers.linear import in_mode
from llmc.layers.steps import at_step
from llmc.numerics.gptq import Factor, gptq
from llmc.numerics.quantize import scales, sliced
from llmc.numerics.spec import LayerSpec, TensorSpec
from tests.device.conftest import Tiny
from tests.device.pretended import Pretended

FP8 = LayerSpec(
    weight=TensorSpec(format="fp8_e4m3", granularity="per_channel"),
    act=TensorSpec(format="fp8_e4m3", granularity="per_token"),
)
Counted = tuple[int, int]  # waits of the host, and copies to the device
Work = Callable[[Pretended, Any, Network, CallStore], Counted]
EVERYTHING = frozenset(OBSERVERS)


def counted(pretended: Pretended, work: Callable[[], object]) -> Counted:
    pretended.forget()
    work()
    return pretended.waits, pretended.counts["to_device"]


def forward(network: Network, call: Call) -> None:
    with at_call(call), at_step(call.step):
        network.part.module(*call.args, **call.kwargs)


def beyond(found: Counted, other: Counted, times: int = 1) -> Counted:
    return (found[0] - other[0]) // times, (found[1] - other[1]) // times


def observing(pretended: Pretended, pipeline: Any, network: Network, store: CallStore) -> Counted:
    """One call, for each group that is observed."""
    call = store.call(0, pretended.device)
    observation = Observation(network.groups, EVERYTHING, 1, 64)
    alone = counted(pretended, lambda: forward(network, call))
    with observation.watching():
        watched = counted(pretended, lambda: forward(network, call))
    return beyond(watched, alone, len(network.groups))


def computing(pretended: Pretended, pipeline: Any, network: Network, store: CallStore) -> Counted:
    """One call of the rounded network, in every mode."""
    call = store.call(0, pretended.device)
    for layer in network.layers.values():
        layer.round()
    alone = counted(pretended, lambda: forward(network, call))
    total = (0, 0)
    for mode in ("transformed", "quantized", "real"):
        with in_mode(network.layers.values(), mode):  # type: ignore[arg-type]
            more = beyond(counted(pretended, lambda: forward(network, call)), alone)
        total = total[0] + more[0], total[1] + more[1]
    return total


def streaming(pretended: Pretended, pipeline: Any, network: Network, store: CallStore) -> Counted:
    """Each block in each call."""
    needs = frozenset({"absmax", "gram"})
    found = counted(pretended, lambda: list(BlockStream(network.part, network.blocks, store, Observing(needs, 64))))
    return beyond(found, (0, 0), len(network.blocks) * len(store))


def judging(pretended: Pretended, pipeline: Any, network: Network, store: CallStore) -> Counted:
    """Each block in each call, in two positions, with the float blocks beside."""
    for layer in network.layers.values():
        layer.round()
    found = counted(pretended, lambda: replay(network, ["transformed", "fake_quant"], store, lambda call: True))
    return beyond(found, (0, 0), len(network.blocks) * len(store))


TIMES = {observing: (1, 0), computing: (0, 0), streaming: (2, 5), judging: (6, 22)}  # the table of docs/devices.md


@torch.no_grad()
@pytest.mark.parametrize("work", TIMES, ids=lambda work: work.__name__)
def test_a_host_waits_as_often_for_many_tokens_as_for_few(work: Work, pretended: Pretended, tiny: Tiny) -> None:
    found = []
    for side in (32, 64):
        pipeline, network, store = tiny.load(pretended.device, FP8, side=side)
        found.append(work(pretended, pipeline, network, store))
    assert found[0] == found[1] == TIMES[work]


@torch.no_grad()
@pytest.mark.parametrize("grid", [{"granularity": "per_channel"}, {"granularity": "per_group", "group_size": 64}])
def test_gptq_waits_as_often_for_wide_layers_as_for_narrow_ones(pretended: Pretended, grid: dict[str, Any]) -> None:
    spec, found = TensorSpec(format="int4", **grid), []
    for width in (256, 1024):
        x, weight = torch.randn(2 * width, width).to(pretended.device), torch.randn(32, width).to(pretended.device)
        found.append(counted(pretended, partial(solved, weight, x.T @ x, spec)))
    assert found[0] == found[1] and found[0] <= (3, 0)


def solved(weight: torch.Tensor, gram: torch.Tensor, spec: TensorSpec) -> object:
    return gptq([weight], Factor.of(gram, 0.01, True), spec, [scales(sliced(weight, spec), spec)])


@torch.no_grad()
def test_a_recipe_waits_for_what_it_tries_and_not_for_each_column(pretended: Pretended, tiny: Tiny) -> None:
    _, network, store = tiny.load(pretended.device, FP8, (SmoothQuant(alpha="search"), GPTQ()))
    block = network.blocks[0]
    observation = Observation(block.groups, network.needs, 1, 64)
    with observation.watching():
        forward(network, store.call(0, pretended.device))
    observation.attach()
    waits, copies = counted(pretended, lambda: quantize_block(block, network.recipe))
    assert waits <= 80 * len(block.groups) and copies <= 8 * len(block.groups)
