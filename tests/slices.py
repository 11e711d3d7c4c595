"""What the default suite takes of a long list, where the rest would say the same of other names; `-m slow` has it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import pytest


def slow_if(long: object) -> list[pytest.MarkDecorator]:
    """The mark of a test that the default suite leaves out."""
    return [pytest.mark.slow] if long else []


def by_default(some: Collection[str], names: Iterable[str]) -> list[object]:
    """All the names as parameters of a test, of which the default suite takes some."""
    names = list(names)
    assert set(some) <= set(names), f"{sorted(set(some) - set(names))} are not among {names}"
    return [pytest.param(name, id=name, marks=slow_if(name not in some)) for name in names]
