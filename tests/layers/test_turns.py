"""Which blocks are there, and how often each is read."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from llmc.layers.turns import Turns


class Noted:
    """What blocks are there, and every reading."""

    def __init__(self, count: int, **settings: int) -> None:
        self.there: set[int] = set()
        self.most = 0
        self.read: list[int] = []
        self.turns = Turns(count, torch.device("cpu"), self._read, self._give, self.there.remove, **settings)

    def _read(self, index: int) -> list[Tensor]:
        self.read.append(index)
        return [torch.tensor(index)]

    def _give(self, index: int, values: Sequence[Tensor]) -> None:
        assert [int(value) for value in values] == [index]
        self.there.add(index)
        self.most = max(self.most, len(self.there))

    def run(self, *blocks: int) -> Noted:
        for index in blocks:
            self.turns.bring(index)
            assert index in self.there
        return self


def test_two_blocks_in_turn_are_read_once_however_often_they_are_wanted() -> None:
    assert Noted(4).run(*[0, 1] * 5, *[1, 2] * 5, *[2, 3] * 5).read == [0, 1, 2, 3]


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_no_more_blocks_are_there_than_there_is_room_for(at_once: int) -> None:
    noted = Noted(5, at_once=at_once).run(*[*range(5)] * 3)
    assert noted.most == at_once and noted.read == [*range(5)] * 3


def test_residents_are_read_once_and_stay_beside_those_that_take_turns() -> None:
    noted = Noted(5, resident=2, at_once=1).run(*[*range(5)] * 3)
    assert noted.read == [0, 1, 2, 3, 4, 2, 3, 4, 2, 3, 4] and noted.there == {0, 1, 4}
    assert Noted(3, resident=3).run(*[*range(3)] * 9).read == [0, 1, 2]
