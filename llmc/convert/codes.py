"""Which layers of a checkpoint are quantized: their weights are codes, and what belongs to them was made for these."""

from __future__ import annotations

from collections.abc import Mapping

import torch

SCALES = ("weight_scale", "scale_weight")  # beside codes, whatever their type


def quantized_layers(dtypes: Mapping[str, torch.dtype]) -> list[str]:
    """The layers that hold codes, told by the type of a weight or by the scale beside it."""
    found: dict[str, None] = {}
    for name, dtype in dtypes.items():
        layer, _, leaf = name.rpartition(".")
        if leaf in SCALES or ("weight" in leaf and holds_codes(dtype)):
            found[layer] = None
    return list(found)


def holds_codes(dtype: torch.dtype) -> bool:
    """Whether a weight of that type is no float weight."""
    return not dtype.is_floating_point or dtype.itemsize == 1
