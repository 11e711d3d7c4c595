"""Layers of ours that are one in the network's own repository: which they are, and their tensors in its names.

What belongs to a row (codes, biases, scales of output channels) is stacked. What belongs to a whole layer must be the
same of all of them, so that targets which keep such things let them be rounded together: see `QuantLinear.peers`.
"""

from __future__ import annotations

from collections.abc import Mapping

from llmc.export.part import LazyTensor
from llmc.renames import Original


def original_tensors(table: Original, tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The tensors in the names and rows of the original; a fused one is made whole, since its parts are."""
    from llmc.convert.names import Names

    named = Names(table).to_original(tensors)
    return {name: LazyTensor(tensor.dtype, tuple(tensor.shape), tensor.make) for name, tensor in named.items()}
