"""Put a QuantLinear in the place of each linear of a part's blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn

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
            swapped[full] = QuantLinear(layer, spec_of(full))
            block.set_submodule(name, swapped[full])
    return swapped
