"""Put a QuantLinear in the place of each linear of a part's blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from llmc.errors import CalibrationError
from llmc.layers.linear import QuantLinear
from llmc.numerics.spec import LayerSpec


def swap_linears(
    blocks: Sequence[tuple[str, nn.Module]], names: Mapping[str, Sequence[str]], spec_of: Callable[[str], LayerSpec]
) -> dict[str, QuantLinear]:
    """Swap the named linears of every block; returns them by full name."""
    swapped = {}
    for block_name, block in blocks:
        for name in names[block_name]:
            layer = block.get_submodule(name)
            assert isinstance(layer, nn.Linear), f"{block_name}.{name} is a {type(layer).__name__}"
            full = f"{block_name}.{name}"
            if not layer.weight.is_meta and not torch.isfinite(layer.weight.sum(dtype=torch.float32)):
                raise CalibrationError(
                    f"{full}.weight holds NaN or infinity; a float model has neither: see how it was trained, merged "
                    "or saved, and give another checkpoint"
                )
            swapped[full] = QuantLinear(layer, spec_of(full))
            block.set_submodule(name, swapped[full])
    return swapped
