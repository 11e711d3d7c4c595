"""The least of a function over values in order, without looking at all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TypeVar

STRIDE = 3
T = TypeVar("T")


def least_in_valley(values: Sequence[T], key: Callable[[T], float]) -> T:
    """As `min`, where the key falls and then rises along them: every third is looked at, and from the best of those
    each neighbour for as long as it is better. Where there are several valleys it may be the bottom of another."""

    @cache
    def at(place: int) -> float:
        return key(values[place])

    best = min(range(min(1, len(values) - 1), len(values), STRIDE), key=at)
    while (better := min(_around(best, len(values)), key=at)) != best:
        best = better
    return values[best]


def _around(place: int, count: int) -> list[int]:
    """Itself first, which a neighbour of equal cost does not replace."""
    return [i for i in (place, place - 1, place + 1) if 0 <= i < count]
