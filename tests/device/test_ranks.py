"""What ranks combine lies on the device, where NCCL and HCCL look for it; what they gather lies on the host."""

from __future__ import annotations

import io
import pickle
from typing import Any

import pytest
import torch

from llmc import distributed
from llmc.calib.attention import calibrated_scales
from llmc.calib.observation import Observation
from llmc.calib.observers import OBSERVERS
from llmc.calib.running import at_call
from llmc.engine.attention import quantized_attentions
from llmc.layers.steps import at_step
from llmc.numerics.attention_spec import AttentionSpec
from llmc.numerics.spec import LayerSpec
from llmc.policy.attention import AttentionPolicy
from tests.device.conftest import Tiny
from tests.device.pretended import Pretended

reduce, gather = distributed.reduce, distributed.gather


class Devices(pickle.Pickler):
    """Notes where the tensors of an object lie that is sent to other ranks."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO())
        self.found: set[str] = set()

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            self.found.add(value.device.type)
        return NotImplemented


@torch.no_grad()
def test_ranks_combine_on_the_device_and_gather_from_the_host(
    pretended: Pretended, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    combined, gathered = [], Devices()

    def watched_reduce(value: torch.Tensor, how: Any) -> torch.Tensor:
        combined.append(value.device.type)
        return reduce(value, how)

    def watched_gather(value: Any) -> list[Any]:
        gathered.dump(value)
        return gather(value)

    monkeypatch.setattr(distributed, "reduce", watched_reduce)
    monkeypatch.setattr(distributed, "gather", watched_gather)
    _, network, store = tiny.load(pretended.device, LayerSpec())
    call = store.call(0, pretended.device)
    observation = Observation(network.groups, frozenset(OBSERVERS), 1, 64)
    with observation.watching(), at_call(call), at_step(call.step):
        network.part.module(*call.args, **call.kwargs)
    observation.attach()
    attentions = quantized_attentions(network.part, AttentionPolicy(AttentionSpec(qk="int8", v="int8")), ())
    calibrated_scales(network.part, attentions, store, pretended.device)
    assert set(combined) == {"npu"} and len(combined) > len(network.groups)
    assert gathered.found == {"cpu"}
