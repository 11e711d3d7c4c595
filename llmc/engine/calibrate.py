"""Calibrate: one float run gathers what the recipes need, then each method works on each block in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from math import isfinite
from typing import Any, Literal

import torch

from llmc import distributed
from llmc.calib.apart import keeps_apart
from llmc.calib.block import BlockStep
from llmc.calib.budget import ChosenCalls, MaxCalls
from llmc.calib.coverage import Coverage
from llmc.calib.enough import left_when_seen
from llmc.calib.finite import Finite
from llmc.calib.group import Group
from llmc.calib.journal import Journal
from llmc.calib.observation import Observation
from llmc.calib.sample_journal import SampleJournal
from llmc.calib.store import CallStore
from llmc.calib.stream import BlockStream
from llmc.calib.streams import Room
from llmc.engine.attention import calibrate_attentions
from llmc.engine.budget import chosen_calls, samples_to_run, tell_budget
from llmc.engine.float_run import LESS, Planned, float_run, folder_of_calls
from llmc.engine.network import Network, quantize_block
from llmc.errors import CalibrationError
from llmc.layers.linear import in_mode
from llmc.log import log, progress
from llmc.memory import available_memory, needed_for
from llmc.models.base import ModelAdapter
from llmc.models.parts import Part


@torch.no_grad()
def calibrate(
    adapter: ModelAdapter,
    pipeline: Any,
    networks: Sequence[Network],
    planned: Planned,
    max_rows: int,
    streamed: bool = False,
    max_attention_error: float | None = None,
    journal: Journal | None = None,
    max_calls: MaxCalls = None,
    memory: int | None = None,
) -> Coverage:
    """Quantize every block by its network's recipe; returns which calls were observed, of each part by itself: all, or
    at most `max_calls`. What grows with calls has so much `memory`, half of what is free if that is not said.

    The samples that are `planned` are shared among the ranks, which all come to the same, as one of them would alone.
    `streamed` gathers statistics block by block over recorded calls, not all at once; so do recipes that ask for it,
    and encoders, whose recorded calls are without padding. Attentions are calibrated over recorded calls too, and last:
    what methods do to linears changes what attentions are given. Blocks go into the `journal` as they are finished, and
    those that are there already are taken from it.
    """

    def goes_by_block(network: Network) -> bool:
        waits = bool(network.needs and network.unfinished)
        return waits and (streamed or network.sequential or network.part.section != "video_gen")

    for network in networks:
        network.finished = 0 if journal is None else finished_before(network, journal)
    for network in networks:
        for block in network.blocks if network.part.section == "video_gen" else []:
            block.steps = max((how.steps for _, _, how in planned), default=0)  # of all ranks alike
    by_block = [network for network in networks if goes_by_block(network)]
    at_once = [network for network in networks if not goes_by_block(network)]
    attending = [network for network in networks if network.attentions and not attended_before(network, journal)]
    coverage = Coverage()
    chosen = chosen_calls(adapter, pipeline, networks, planned, max_calls)
    for network in networks:
        for block in network.blocks if keeps_apart(network.needs) else []:
            block.samples = len(chosen.samples(network.part.name))
    own = [sample for _, sample in distributed.share(samples_to_run(networks, planned, chosen))]
    with folder_of_calls(journal) as folder:
        recorded = [network.part.name for network in networks if network in by_block or network in attending]
        # statistics of the float model need no second run: all blocks are observed while the recording goes by
        looked_at = [(n, n.unfinished) for n in at_once if n.needs and n.unfinished]
        looked_at += [(n, n.blocks[:1]) for n in by_block if n.first_is_like_float and not n.finished]
        groups = {n.part.name: [group for block in blocks for group in block.groups] for n, blocks in looked_at}
        finite = Finite()
        observations = {}
        for n, _ in looked_at:
            name = n.part.name
            total, of_samples = chosen.total(name), chosen.samples(name)
            observations[name] = Observation(groups[name], n.needs, total, max_rows, finite, of_samples)
        samples = SampleJournal(folder, recorded, [index for index, _, _ in own], list(observations.values()))
        if recorded or observations:  # plain rounding looks at weights alone: no need to run the pipeline
            parts = [network.part for network in networks]
            tell_budget(adapter, pipeline, planned, chosen)
            until = until_seen(adapter.parts(pipeline), chosen, groups)
            known = {group.name for some in groups.values() for group in some}
            others = [
                group for n in networks if n.part.name in recorded for group in n.groups if group.name not in known
            ]
            watching = [*observations.values(), Observation(others, frozenset(), 0, 1, finite)]
            coverage = float_run(adapter, pipeline, parts, own, samples, watching, until, chosen, finite)
            coverage.reduce()
            if journal is not None:
                journal.keep_coverage(coverage)
        elif journal is not None:
            coverage = journal.coverage()
        quantize_all(at_once, journal, observations)
        for network in by_block:
            store = samples.stores[network.part.name]
            if network.part.name in observations:
                observations[network.part.name].attach()
            quantize_on_calls(network, store, max_rows, network.first_is_like_float, journal, memory)
        for network in attending:
            attend(network, samples.stores[network.part.name], max_attention_error, journal)
    if journal is not None:
        journal.forget_recording((network.part.name, block) for network in networks for block in network.blocks)
    return coverage


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


def until_seen(
    denoisers: Sequence[Part], chosen: ChosenCalls, groups: Mapping[str, Sequence[Group]]
) -> Callable[[int], AbstractContextManager[None]]:
    """What leaves the run of a sample once all of its chosen calls were made, and the groups seen in the last one."""
    return lambda sample: left_when_seen(denoisers, chosen.last(sample), groups)


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
    blocks = [(network, block) for network in networks for block in network.unfinished]
    with progress("quantizing blocks", len(blocks)) as advance:
        for network, block in blocks:
            if observed and network.part.name in observed:
                observed[network.part.name].attach(block.groups)
            finish(block, network, journal)
            block.put_away()
            advance()


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
    device = next(network.part.module.parameters()).device
    propagate: Literal["quantized", "float"] = "quantized" if network.sequential else "float"
    memory = available_memory() // (2 * distributed.ranks_here()) if memory is None else memory
    with ExitStack() as stack:
        room = stack.enter_context(Room(memory, None if journal is None else journal.folder))
        advance = stack.enter_context(progress(f"streaming {network.part.name}", len(network.unfinished)))
        blocks = BlockStream(
            network.part, network.blocks, store, network.needs, max_rows, device, propagate, network.within_block,
            first_is_known, network.early_needs, network.finished, room,
        )  # fmt: skip
        for block in blocks:
            finish(block, network, journal)
            advance()


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
