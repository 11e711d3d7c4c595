"""Replaying the float trajectory block by block finds what whole forwards find."""

from __future__ import annotations

import torch

from llmc.calib.store import Call
from llmc.calib.teacher import teacher_forced_errors
from llmc.engine.network import Network
from llmc.judging.positions import in_position
from llmc.judging.replay import Replayed, replay
from tests.contracts.conftest import Family

CPU = torch.device("cpu")


def replayed(network: Network, family: Family, position: str, looked_at: bool = False) -> Replayed:
    calls = family.float_calls[network.part.name]
    return replay(network, [position], calls, lambda call: looked_at)[position]


def test_each_call_has_the_error_of_a_whole_forward(family: Family) -> None:
    _, networks = family.load()
    for network in networks:
        for layer in network.layers.values():
            layer.round()
        calls = family.float_calls[network.part.name]
        assert all(error == 0 for _, error in replayed(network, family, "pretrain").calls)
        for position in ("baseline", "fake_quant"):
            with in_position([network], position):
                whole = teacher_forced_errors(network.part, calls, CPU)[0]
            found = replayed(network, family, position).calls
            assert found == [(step, error) for step, errors in whole.items() for error in errors]
            assert all(0 < error < 0.01 for _, error in found)


def test_blocks_are_compared_in_the_calls_that_are_looked_at(family: Family) -> None:
    _, networks = family.load()
    for network in networks:
        for layer in network.layers.values():
            layer.round()
        calls = family.float_calls[network.part.name]
        last = calls.headers()[-1]

        def is_last(call: Call, last: Call = last) -> bool:
            return call.number == last.number

        found = replay(network, ["pretrain", "fake_quant"], calls, is_last)
        assert found["pretrain"].blocks == [(block.name, 0.0) for block in network.blocks]
        names = [name for name, _ in found["fake_quant"].blocks]
        assert names == [block.name for block in network.blocks]
        assert all(0 < error < 0.01 for _, error in found["fake_quant"].blocks)
        assert replayed(network, family, "fake_quant").blocks == []
