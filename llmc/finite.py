"""Whether numbers are numbers: neither NaN nor infinity."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch


def ends(x: torch.Tensor) -> torch.Tensor:
    """The least and the largest value, (2,) float32, of a tensor that is not empty. NaN and infinity stay in them, and
    no other reduction is as quick on 16 bits."""
    return torch.stack(torch.aminmax(x)).float()


def is_finite(x: torch.Tensor) -> bool:
    """Whether a tensor of floats holds numbers alone; integers, and codes of 8 bits, are taken for numbers."""
    if not x.is_floating_point() or x.itemsize == 1 or x.numel() == 0:
        return True
    return bool(ends(x).isfinite().all())


def not_finite(value: object, place: str = "") -> Iterator[str]:
    """Where a float in nested dictionaries and lists is NaN or infinity, which JSON has no words for."""
    if isinstance(value, float) and not math.isfinite(value):
        yield place
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from not_finite(item, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from not_finite(item, f"{place}[{index}]")
