"""Calibrate: one float run gathers what the recipe needs, then each method works on each block in turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch

from llmc.algorithms.base import Algorithm
from llmc.calib.block import Observation
from llmc.calib.coverage import Coverage
from llmc.calib.record import record_calls
from llmc.calib.store import CallStore
from llmc.calib.stream import stream_blocks
from llmc.errors import CalibrationError
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
) -> Coverage:
    """Quantize every block; returns which calls were observed, of each part by itself. `streamed` gathers statistics
    block by block over recorded calls, not all at once."""
    needs = frozenset[str]().union(*(method.needs for method in recipe))
    if any(is_static(layer) for network in networks for layer in network.layers.values()):
        needs |= {"range"}
    if needs:  # whoever observes also keeps the rows that each layer's error is told from
        needs |= {"rows"}

    coverage = Coverage()

    def record(stores: dict[str, CallStore]) -> None:
        parts = [network.part for network in networks]
        with progress("calibration videos", len(planned)) as advance:
            record_calls(adapter, pipeline, parts, planned, stores, on_video=advance, coverage=coverage)

    if not needs:  # plain rounding looks at weights alone: no need to run the network
        quantize_all(networks, recipe)
        return coverage
    calls = expected_calls(adapter, pipeline, networks, planned)
    if streamed or any(method.sequential for method in recipe):
        _stream(recipe, networks, needs, max_rows, record)
    else:
        # statistics of the float model need no second run: all blocks are observed while the recording goes by
        with ExitStack() as stack:
            observations = [
                stack.enter_context(Observation(network.groups, needs, calls[network.part.name], max_rows))
                for network in networks
            ]
            record({})
        for observation in observations:
            observation.attach()
        quantize_all(networks, recipe)
    coverage.reduce()
    return coverage


def expected_calls(
    adapter: ModelAdapter, pipeline: Any, networks: Sequence[Network], planned: Planned
) -> dict[str, int]:
    """How many calls each part will get, all samples together; a part that would get none cannot be calibrated."""
    calls: Counter[str] = Counter()
    for _, _, how in planned:
        calls.update(adapter.call_counts(pipeline, how))
    for network in networks:
        if planned and calls[network.part.name] == 0:
            steps = planned[0][2].steps
            raise CalibrationError(
                f"{network.part.name} runs in none of the {steps} steps of this schedule, so nothing would be known of "
                "it: another expert has them all; give calib more steps, or another shift"
            )
    return dict(calls)


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
    with TemporaryDirectory(prefix="llmc-calls-") as folder:
        stores = {network.part.name: CallStore(Path(folder) / network.part.name) for network in networks}
        record(stores)
        for network in networks:
            device = next(network.part.module.parameters()).device
            blocks = stream_blocks(
                network.part, network.blocks, stores[network.part.name], needs, max_rows, device, propagate
            )
            with progress(f"streaming {network.part.name}", len(network.blocks)) as advance:
                for block in blocks:
                    quantize_block(block, recipe)
                    advance()
