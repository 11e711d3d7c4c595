"""What was judged, small enough to keep: a digest of each rounded weight, to hold an export against."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from llmc.engine.network import Network
from llmc.numerics.quantize import Quantized, at_once


def weight_digests(networks: Sequence[Network]) -> dict[str, dict[str, str]]:
    """Part -> layer -> sha256 of its dequantized weight in float32, row by row."""
    return {
        network.part.name: {
            name: digest(rounded) for name, layer in network.layers.items() if (rounded := layer.rounded) is not None
        }
        for network in networks
    }


def digest(rounded: Quantized) -> str:
    """Of one weight; some rows at a time, where none needs to know of others."""
    found, rows = hashlib.sha256(), rounded.shape[0]
    count = at_once(rows, rounded.shape[1], rounded.codes.device) if rounded.spec.rows_apart else rows
    for first in range(0, rows, count):
        part = rounded.of_rows(slice(first, first + count)).dequantize()
        found.update(part.cpu().contiguous().numpy().data)
    return found.hexdigest()
