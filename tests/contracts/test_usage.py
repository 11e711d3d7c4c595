"""Forwards are counted by the blocks that run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from llmc.calib.stream import run_to_block
from llmc.engine.network import prepare
from llmc.ledger.usage import counting
from llmc.models.wan import WanI2V
from llmc.numerics.spec import LayerSpec
from llmc.policy.rules import Policy
from tests.contracts.conftest import Family


@torch.no_grad()
def test_a_block_counts_as_its_share_of_a_forward_and_one_that_is_replayed_as_nothing(
    make_family: Callable[[str], Family],
) -> None:
    family = make_family("WanI2V")
    (part,) = WanI2V().parts(family.pipeline())
    network = prepare(part, Policy(LayerSpec()), ())
    call = family.float_calls[part.name].call(0, "cpu")
    told: list[float] = []
    with counting([network], told.append):
        part.module(*call.args, **call.kwargs)
        assert len(told) == len(network.blocks) and sum(told) == pytest.approx(1)
        outputs = {type(part.blocks[0][1]): run_to_block(part, 0, call, {})}
        run_to_block(part, 1, call, outputs)
    assert told[2:] == told[:2]
    part.module(*call.args, **call.kwargs)
    assert len(told) == 4, "nobody counts any more"
