"""The search of a valley against looking everywhere."""

from __future__ import annotations

import pytest

from llmc.numerics.line_search import least_in_valley


@pytest.mark.parametrize("count", range(1, 13))
def test_the_least_of_every_valley_is_found_wherever_it_lies(count: int) -> None:
    for lowest in range(count):
        for left, right in ((1, 1), (3, 1), (1, 3)):  # slopes
            costs = [left * (lowest - i) if i < lowest else right * (i - lowest) for i in range(count)]
            assert least_in_valley(range(count), costs.__getitem__) == lowest


@pytest.mark.parametrize("lowest", range(10))
def test_of_ten_values_six_at_most_are_looked_at_and_none_twice(lowest: int) -> None:
    seen: list[int] = []

    def cost(value: int) -> float:
        seen.append(value)
        return abs(value - lowest)

    least_in_valley(range(10), cost)
    assert len(seen) == len(set(seen)) <= 6


def test_where_all_cost_the_same_it_ends() -> None:
    assert least_in_valley(range(10), lambda _: 1.0) == 1
