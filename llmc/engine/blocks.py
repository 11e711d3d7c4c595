"""The recipes at work on blocks, one after another: on what was observed of all at once, or over recorded calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from math import isfinite
from typing import Literal

import torch

from llmc import distributed
from llmc.calib.block import BlockStep
from llmc.calib.journal import Journal
from llmc.calib.observation import Observation
from llmc.calib.store import CallStore
from llmc.calib.stream import BlockStream, Observing
from llmc.calib.streams import Room
from llmc.engine.attention import calibrate_attentions
from llmc.engine.float_run import LESS
from llmc.engine.network import Network, quantize_block
from llmc.errors import CalibrationError
from llmc.layers.linear import in_mode
from llmc.log import log
from llmc.memory import available_memory, needed_for
from llmc.progress import progress


def finished_before(network: Network, journal: Journal) -> int:
    """Take over the blocks that a run finished before it was cut off; returns how many."""
    finished = journal.restore(network.part.name, network.blocks)
    if finished:
        log.info("%d of %d blocks of %s were finished before", finished, len(network.blocks), network.part.name)
    return finished


def quantize_all(
    networks: Sequence[Network], journal: Journal | None = None, observed: Mapping[str, Observation] | None = None
) -> None:
    """Let the recipes work on every block, all of them `observed` by their part's name. What other ranks saw of a block
    comes here when it is its turn: rows of all blocks would take as many times the room as there are ranks."""
    with progress("quantizing", sum(len(network.unfinished) for network in networks), "blocks") as advance:
        for network in networks:
            seen = (observed or {}).get(network.part.name)
            for block in network.unfinished:
                if seen is not None:
                    seen.attach(block.groups)
                finish(block, network, journal)
                block.put_away()
                advance(1, block.name)


@torch.no_grad()
def quantize_on_calls(
    network: Network,
    store: CallStore,
    max_rows: int,
    first_is_known: bool = False,
    journal: Journal | None = None,
    memory: int | None = None,
) -> None:
    """Quantize a network block by block over recorded calls; the first block may have been observed already. What
    `memory` does not hold of the streams lies beside the `journal`."""
    propagate: Literal["quantized", "float"] = "quantized" if network.sequential else "float"
    early, within = network.early_needs, network.within_block
    how = Observing(network.needs, max_rows, propagate, within, early, network.learns, first_is_known)
    memory = available_memory() // (2 * distributed.ranks_here()) if memory is None else memory
    with ExitStack() as stack:
        room = stack.enter_context(Room(memory, None if journal is None else journal.folder))
        shown = stack.enter_context(progress(f"streaming {network.part.name}", len(network.unfinished), "blocks"))

        def after_call(block: BlockStep, seen: float) -> None:
            shown.reach(network.unfinished.index(block) + seen / 2, f"observing {block.name}")

        blocks = BlockStream(network.part, network.blocks, store, how, network.finished, room, after_call)
        for done, block in enumerate(blocks, 1):
            shown(0, f"quantizing {block.name}")
            finish(block, network, journal)
            shown.reach(done, block.name)


def finish(block: BlockStep, network: Network, journal: Journal | None) -> None:
    """Let the recipe work on a block, and note that it is done."""
    methods = " + ".join(method.name for method in network.recipe) or "RTN"
    with needed_for(f"quantizing {block.name} of {network.part.name} by {methods}", LESS):
        quantize_block(block, network.recipe)
    for name, error in block.errors.items():
        if not all(map(isfinite, error.figures().values())):
            raise CalibrationError(
                f"the recipe leaves NaN or infinity in {network.part.name}.{name}, though neither is in its weight or "
                "in what it reads; leave it out with a rule (`skip: True`), or choose another grid or method for it"
            )
    if journal is not None:
        journal.keep(network.part.name, block)


def attend(network: Network, store: CallStore, max_error: float | None, journal: Journal | None) -> None:
    """Calibrate the attentions of a network, and note it."""
    with in_mode(network.layers.values(), "transformed"), needed_for(f"attentions of {network.part.name}", LESS):
        network.attention_errors = calibrate_attentions(network.part, network.attentions, store, max_error)
    if journal is not None:
        journal.keep_attentions(network.part.name, network.attentions, network.attention_errors)
        attended_before(network, journal)


def attended_before(network: Network, journal: Journal | None) -> bool:
    """Take over the attentions that a run calibrated before it was cut off; returns whether it had."""
    device = next(network.part.module.parameters()).device
    found = None if journal is None else journal.restore_attentions(network.part.name, network.attentions, device)
    network.attention_errors = network.attention_errors if found is None else found
    return found is not None
