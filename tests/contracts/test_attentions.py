"""What holds for attention in every family: all of it is seen, head by head, and nothing changes unasked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from llmc.calib.store import CallStore
from llmc.calib.teacher import first_tensor
from llmc.engine.attention import attention_names
from llmc.engine.network import Network, prepare
from llmc.layers.attention import AttentionCall, QuantAttention, watched
from llmc.layers.linear import in_mode
from llmc.models.parts import Part
from llmc.numerics.attention_spec import AttentionSpec
from llmc.numerics.spec import LayerSpec
from llmc.policy.attention import AttentionPolicy
from llmc.policy.rules import Policy
from tests.contracts.conftest import Family

Attending = tuple[list[Network], dict[str, CallStore]]


class Counting(TorchFunctionMode):
    """Counts every call of scaled_dot_product_attention, whoever makes it."""

    calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += func is scaled_dot_product_attention
        return func(*args, **(kwargs or {}))


def attending(family: Family, spec: AttentionSpec) -> Attending:
    """The family's networks with quantized attention alone, and the calls of one sample."""
    policy, parts = AttentionPolicy(spec), family.adapter.parts(family.pipeline())
    return [prepare(part, Policy(LayerSpec()), (), attention=policy) for part in parts], family.float_calls


def run(part: Part, store: CallStore) -> Tensor:
    """What the network makes of the first call."""
    call = next(iter(store.calls("cpu")))
    with torch.no_grad():
        return first_tensor(part.module(*call.args, **call.kwargs))


@contextmanager
def counting_blocks(part: Part) -> Iterator[Counting]:
    """Count the calls that are made inside of blocks."""
    counting = Counting()
    hooks = []
    for _, block in part.blocks:
        hooks.append(block.register_forward_pre_hook(lambda *_: counting.__enter__() and None))
        hooks.append(block.register_forward_hook(lambda *_: counting.__exit__(None, None, None)))
    try:
        yield counting
    finally:
        for hook in hooks:
            hook.remove()


def test_every_attention_of_every_block_is_seen_and_float_mode_changes_nothing(family: Family) -> None:
    networks, stores = attending(family, AttentionSpec(qk="int8", v="int8"))
    for network in networks:
        part, store = network.part, stores[network.part.name]
        assert list(network.attentions) == attention_names(part)
        with counting_blocks(part) as everything:
            wanted = run(part, store)
        seen: Counter[str] = Counter()

        def count(attention: QuantAttention, call: AttentionCall, seen: Counter[str] = seen) -> None:
            seen[attention.name] += 1
            assert {x.shape[1] for x in call.tensors} == {attention.heads}

        with watched(network.attentions.values(), count):
            assert torch.equal(run(part, store), wanted)
        assert set(seen) == set(network.attentions)
        assert everything.calls == seen.total()
        with in_mode(network.switched, "quantized"):
            error = (run(part, store) - wanted).square().sum() / wanted.square().sum()
        assert 0 < error < 1e-2
        assert torch.equal(run(part, store), wanted)
