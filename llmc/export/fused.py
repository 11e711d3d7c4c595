"""Layers of ours that are one in the network's own repository: which they are, and their tensors in its names.

What belongs to a row (codes, biases, scales of output channels) is stacked. What belongs to a whole layer must be the
same of all of them, so that targets which keep such things let them be rounded together: see `QuantLinear.peers`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from llmc.export.base import LazyTensor
from llmc.renames import Fused, Original


def fused_layers(table: Original, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Layer of the original -> those of ours that it is made of, in the order of its rows, among the `names`."""
    found = {}
    for row in table:
        if isinstance(row, Fused):
            first = re.compile(re.escape(row.sources[0]).replace(r"\{\}", r"(\d+)"))
            for name in names:
                if numbers := first.fullmatch(name):
                    found[row.target.format(*numbers.groups())] = tuple(
                        source.format(*numbers.groups()) for source in row.sources
                    )
    return found


def original_tensors(table: Original, tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The tensors in the names and rows of the original; a fused one is made whole, since its parts are."""
    from llmc.convert.names import Names

    named = Names(table).to_original(tensors)
    return {name: LazyTensor(tensor.dtype, tuple(tensor.shape), tensor.make) for name, tensor in named.items()}
