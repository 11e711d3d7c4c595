"""What was judged, small enough to keep: a digest of each rounded weight, to hold an export against."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from llmc.steps.network import Network


def weight_digests(networks: Sequence[Network]) -> dict[str, dict[str, str]]:
    """Part -> layer -> sha256 of its dequantized weight in float32, row by row."""
    return {
        network.part.name: {
            name: hashlib.sha256(layer.state.rounded.dequantize().cpu().contiguous().numpy().data).hexdigest()
            for name, layer in network.layers.items()
            if layer.state.rounded is not None
        }
        for network in networks
    }
