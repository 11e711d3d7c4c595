"""Which calls an attention's error is told over."""

from __future__ import annotations

import pytest

from llmc.calib.store import Call, CallStore


@pytest.mark.parametrize("count", [1, 5, 8, 9, 480])
def test_a_few_calls_stand_for_the_first_and_the_last_both_branches_and_all_steps(count: int) -> None:
    store = CallStore()
    for number in range(count):
        store.add(Call(number // 40, number % 40 // 2, 0.0, ("cond", "uncond")[number % 2]))
    few = store.spread(8).headers()
    assert len(few) == min(8, count)
    assert few[0] == store.headers()[0] and few[-1] == store.headers()[-1]
    if count == 480:
        assert {call.branch for call in few} == {"cond", "uncond"} and len({call.step for call in few}) >= 7
