"""Calibrate: one float run gathers what the recipe needs, then each method works on each block in turn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from llmc.algorithms.base import Algorithm
from llmc.calib.block import BlockStep, Observation
from llmc.calib.record import record_calls
from llmc.calib.store import CallStore
from llmc.calib.stream import stream_blocks
from llmc.log import progress
from llmc.models.base import ModelAdapter, Sample, Sampling
from llmc.network import Network

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
    """Quantize every block. `streamed` gathers statistics block by block over recorded calls, instead of all at once."""
    needs = frozenset[str]().union(*(method.needs for method in recipe))
    if not needs:  # plain rounding looks at weights alone: no need to run the network
        for network in networks:
            for block in network.blocks:
                quantize_block(block, recipe)
    elif streamed:
        _calibrate_streamed(recipe, needs, adapter, pipeline, networks, planned, max_rows)
    else:
        _calibrate_at_once(recipe, needs, adapter, pipeline, networks, planned, max_rows)


def quantize_block(block: BlockStep, recipe: Sequence[Algorithm]) -> None:
    """All methods of the recipe in order; what none of them rounded is rounded to nearest."""
    for method in recipe:
        method.apply(block)
    for layer in block.linears.values():
        if layer.state.rounded is None:
            layer.round()


def _calibrate_at_once(
    recipe: Sequence[Algorithm], needs: frozenset[str], adapter: ModelAdapter, pipeline: Any, networks: Sequence[Network],
    planned: Planned, max_rows: int,
) -> None:  # fmt: skip
    """Statistics of the float model need no second run: observe all blocks while the recording goes by."""
    groups = [group for network in networks for group in network.groups]
    with Observation(groups, needs, _expected_calls(planned, adapter), max_rows) as observation:
        _record(adapter, pipeline, networks, planned, {})
    observation.attach()
    blocks = [block for network in networks for block in network.blocks]
    with progress("quantizing blocks", len(blocks)) as advance:
        for block in blocks:
            quantize_block(block, recipe)
            advance()


def _calibrate_streamed(
    recipe: Sequence[Algorithm], needs: frozenset[str], adapter: ModelAdapter, pipeline: Any, networks: Sequence[Network],
    planned: Planned, max_rows: int,
) -> None:  # fmt: skip
    with TemporaryDirectory(prefix="llmc-calls-") as folder:
        stores = {}
        for network in networks:
            (Path(folder) / network.part.name).mkdir()
            stores[network.part.name] = CallStore(Path(folder) / network.part.name)
        _record(adapter, pipeline, networks, planned, stores)
        for network in networks:
            device = next(network.part.module.parameters()).device
            blocks = stream_blocks(network.part, network.blocks, stores[network.part.name], needs, max_rows, device)
            with progress(f"streaming {network.part.name}", len(network.blocks)) as advance:
                for block in blocks:
                    quantize_block(block, recipe)
                    advance()


def _record(
    adapter: ModelAdapter, pipeline: Any, networks: Sequence[Network], planned: Planned, stores: dict[str, CallStore]
) -> None:
    with progress("calibration videos", len(planned)) as advance:
        record_calls(adapter, pipeline, [network.part for network in networks], planned, stores, on_video=advance)


def _expected_calls(planned: Planned, adapter: ModelAdapter) -> int:
    return sum(how.steps * (len(adapter.branches) if how.guidance_scale > 1 else 1) for _, _, how in planned)
