"""What the default suite takes of a long list, where the rest would say the same of other names; `-m slow` has it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import pytest

# what holds for every family is tried on all by `-m slow`, and by default on those that differ most
FAMILIES = (
    "Flux", "HunyuanVideo", "LTX2", "Mochi", "OpenSoraPlan", "SD3", "Wan2I2V", "Wan2T2V", "Wan2TI2V", "WanFLF2V",
    "WanI2V", "WanT2V", "WanVACE", "ZImage",
)  # fmt: skip


def slow_if(long: object) -> list[pytest.MarkDecorator]:
    """The mark of a test that the default suite leaves out."""
    return [pytest.mark.slow] if long else []


def by_default(some: Collection[str], names: Iterable[str]) -> list[object]:
    """All the names as parameters of a test, of which the default suite takes some."""
    names = list(names)
    assert set(some) <= set(names), f"{sorted(set(some) - set(names))} are not among {names}"
    return [pytest.param(name, id=name, marks=slow_if(name not in some)) for name in names]
