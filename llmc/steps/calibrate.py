"""Calibrate: one float run gathers what the recipe needs, then each method works on each block in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch

from llmc.algorithms.base import Algorithm
from llmc.calib.observation import Observation
from llmc.calib.record import record_calls
from llmc.calib.store import CallStore
from llmc.calib.stream import BlockStream
from llmc.layers.linear import QuantLinear
from llmc.log import progress
from llmc.models.base import ModelAdapter, Sample, Sampling
from llmc.steps.network import Network, quantize_block

Planned = Sequence[tuple[int, Sample, Sampling]]


@torch.no_grad()
def calibrate(
    recipe: Sequence[Algorithm],
    adapter: ModelAdapter,
    pipeline: Any,
    networks: Sequence[Network],
    planned: Planned,
    max_rows: int,
    streamed: bool = False,
) -> None:
    """Quantize every block. `streamed` gathers statistics block by block over recorded calls, not all at once."""
    needs = frozenset[str]().union(*(method.needs for method in recipe))
    if any(is_static(layer) for network in networks for layer in network.layers.values()):
        needs |= {"range"}
    if needs:  # whoever observes also keeps the rows that each layer's error is told from
        needs |= {"rows"}

    def record(stores: dict[str, CallStore]) -> None:
        with progress("calibration videos", len(planned)) as advance:
            record_calls(adapter, pipeline, [network.part for network in networks], planned, stores, on_video=advance)

    if not needs:  # plain rounding looks at weights alone: no need to run the network
        quantize_all(networks, recipe)
    elif streamed or any(method.sequential for method in recipe):
        _stream(recipe, networks, needs, max_rows, record)
    else:
        calls = sum(how.steps * (len(adapter.branches) if how.guidance_scale > 1 else 1) for _, _, how in planned)
        # statistics of the float model need no second run: all blocks are observed while the recording goes by
        with Observation([g for network in networks for g in network.groups], needs, calls, max_rows) as observation:
            record({})
        observation.attach()
        quantize_all(networks, recipe)


def quantize_all(networks: Sequence[Network], recipe: Sequence[Algorithm]) -> None:
    """Let the recipe work on every block, all statistics being there."""
    blocks = [block for network in networks for block in network.blocks]
    with progress("quantizing blocks", len(blocks)) as advance:
        for block in blocks:
            quantize_block(block, recipe)
            advance()


def is_static(layer: QuantLinear) -> bool:
    """Whether the layer's activation scale comes from calibration."""
    return layer.spec.act is not None and not layer.spec.act.dynamic


def _stream(
    recipe: Sequence[Algorithm],
    networks: Sequence[Network],
    needs: frozenset[str],
    max_rows: int,
    record: Callable[[dict[str, CallStore]], None],
) -> None:
    propagate: Literal["quantized", "float"] = "quantized" if any(m.sequential for m in recipe) else "float"
    within = any(method.within_block for method in recipe)
    with TemporaryDirectory(prefix="llmc-calls-") as folder:
        stores = {network.part.name: CallStore(Path(folder) / network.part.name) for network in networks}
        record(stores)
        for network in networks:
            device = next(network.part.module.parameters()).device
            blocks = BlockStream(
                network.part, network.blocks, stores[network.part.name], needs, max_rows, device, propagate, within
            )
            with progress(f"streaming {network.part.name}", len(network.blocks)) as advance:
                for block in blocks:
                    quantize_block(block, recipe)
                    advance()
