"""Calibrate: one float run gathers what the recipes need, then each method works on each block in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

from llmc import distributed
from llmc.calib.block import BlockStep
from llmc.calib.budget import ChosenCalls, MaxCalls
from llmc.calib.coverage import Coverage
from llmc.calib.early_end import left_when_seen
from llmc.calib.finite import Finite
from llmc.calib.group import Group
from llmc.calib.held_out import keeps_apart
from llmc.calib.journal import Journal
from llmc.calib.observation import Observation
from llmc.calib.record import Watch
from llmc.calib.sample_journal import SampleJournal
from llmc.calib.store import CallStore
from llmc.config.schema import Config
from llmc.engine.blocks import attend, attended_before, finished_before, quantize_all, quantize_on_calls
from llmc.engine.budget import chosen_calls, samples_to_run, tell_budget
from llmc.engine.float_run import float_run, folder_of_calls
from llmc.engine.network import Network, groups_of
from llmc.models.loaded import LoadedModel
from llmc.models.parts import Part
from llmc.models.samples import PlannedSamples


@dataclass(frozen=True)
class CalibrationPlan:
    """What a calibration runs, and what of it is looked at."""

    samples: PlannedSamples  # ranks share them, and all come to the same, as one of them would alone
    max_rows: int = 0  # act rows kept of each group of linears
    max_calls: MaxCalls = None  # of each part that are observed; None: all
    streamed: bool = False  # statistics are gathered block by block over recorded calls, not all at once
    max_attention_error: float | None = None  # attentions above it stay float
    memory: int | None = None  # bytes for what grows with calls; None: half of what is free

    @classmethod
    def of(cls, config: Config) -> CalibrationPlan:
        """What a configuration says of it."""
        samples = config.calib_samples(config.model.adapter())
        each = [(index, sample, config.calib_sampling(index)) for index, sample in enumerate(samples)]
        attention, calib, memory = config.attention_policy(), config.calib, config.base.memory
        allowed = None if attention is None else attention.max_error
        if calib is None:
            return cls(each, max_attention_error=allowed, memory=memory)
        return cls(each, calib.max_rows, calib.max_calls, calib.streamed, allowed, memory)


@torch.no_grad()
def calibrate(
    model: LoadedModel, networks: Sequence[Network], plan: CalibrationPlan, journal: Journal | None = None
) -> Coverage:
    """Quantize every block by its network's recipe; returns which calls were observed, of each part by itself.

    Statistics are gathered block by block where the plan or a recipe asks for it, and of encoders, whose recorded calls
    are without padding. Attentions are calibrated over recorded calls too, and last: what methods do to linears changes
    what attentions are given. Blocks go into the `journal` as they are finished, and those that are there already are
    taken from it.
    """
    calibration = Calibration(model, networks, plan, journal)
    with folder_of_calls(journal) as folder:
        calibration.record(folder)
        calibration.work()
    if journal is not None:
        finished: list[tuple[str, BlockStep]] = []
        for network in networks:
            finished += [(network.part.name, block) for block in network.blocks]
        journal.forget_recording(finished)
    return calibration.coverage


class Calibration:
    """One calibration: what of which network is looked at, the float run that gathers it, and the work on blocks."""

    def __init__(
        self, model: LoadedModel, networks: Sequence[Network], plan: CalibrationPlan, journal: Journal | None
    ) -> None:
        self.model, self.networks, self.plan, self.journal = model, networks, plan, journal
        for network in networks:
            network.finished = 0 if journal is None else finished_before(network, journal)
        self.attending = [n for n in networks if n.attentions and not attended_before(n, journal)]
        self.by_block = [network for network in networks if goes_by_block(network, plan.streamed)]
        self.chosen = chosen_calls(model, networks, plan.samples, plan.max_calls)
        self.observations: dict[str, Observation] = {}  # part -> what is observed while the recording goes by
        self.stores: dict[str, CallStore] = {}  # part -> recorded calls
        self.coverage = Coverage() if journal is None else journal.coverage()
        tell_blocks(networks, plan.samples, self.chosen)

    def record(self, folder: Path) -> None:
        """Run this rank's samples in float; plain rounding looks at weights alone, and needs no run."""
        finite, chosen, planned = Finite(), self.chosen, self.plan.samples
        self.observations = observed_at_once(self.networks, self.by_block, chosen, self.plan.max_rows, finite)
        recorded = [network for network in self.networks if network in self.by_block or network in self.attending]
        own = [sample for _, sample in distributed.share(samples_to_run(self.networks, planned, chosen))]
        names, places = [network.part.name for network in recorded], [index for index, _, _ in own]
        samples = SampleJournal(folder, names, places, list(self.observations.values()))
        self.stores = samples.stores
        if not (recorded or self.observations):
            return
        tell_budget(self.model, planned, chosen)
        groups = {name: observation.groups for name, observation in self.observations.items()}
        watch = Watch(chosen, until_seen(self.model.parts(), chosen, groups), finite)
        watching = [*self.observations.values(), seen_for_numbers_alone(recorded, self.observations, finite)]
        parts = [network.part for network in self.networks]
        self.coverage = float_run(self.model, parts, own, samples, watching, watch)
        self.coverage.reduce()
        if self.journal is not None:
            self.journal.keep_coverage(self.coverage)

    def work(self) -> None:
        """Let the recipes work: on all that was observed at once, block by block over recorded calls, on attentions."""
        at_once = [network for network in self.networks if network not in self.by_block]
        quantize_all(at_once, self.journal, self.observations)
        max_rows, memory = self.plan.max_rows, self.plan.memory
        for network in self.by_block:
            store, first_is_known = self.stores[network.part.name], network.first_is_like_float
            if network.part.name in self.observations:
                self.observations[network.part.name].attach()
            quantize_on_calls(network, store, max_rows, first_is_known, self.journal, memory)
        for network in self.attending:
            attend(network, self.stores[network.part.name], self.plan.max_attention_error, self.journal)


def goes_by_block(network: Network, streamed: bool) -> bool:
    """Whether its blocks are observed one by one over recorded calls."""
    waits = bool(network.needs and network.unfinished)
    return waits and (streamed or network.sequential or not network.part.is_denoiser)


def tell_blocks(networks: Sequence[Network], planned: PlannedSamples, chosen: ChosenCalls) -> None:
    """Note in each block how many steps and samples its calibration has, on all ranks alike."""
    steps = max((how.steps for _, _, how in planned), default=0)
    for network in networks:
        samples = len(chosen.samples(network.part.name))
        for block in network.blocks:
            if network.part.is_denoiser:
                block.steps = steps
            if keeps_apart(network.needs):
                block.samples = samples


def observed_at_once(
    networks: Sequence[Network], by_block: Sequence[Network], chosen: ChosenCalls, max_rows: int, finite: Finite
) -> dict[str, Observation]:
    """Part -> what is observed while the recording goes by: statistics of the float model need no second run."""
    observations = {}
    for network in networks:
        blocks: Sequence[BlockStep] = network.unfinished if network.needs else []
        if network in by_block:
            blocks = network.blocks[:1] if network.first_is_like_float and not network.finished else []
        if blocks:
            groups = groups_of(blocks)
            total, samples = chosen.total(network.part.name), chosen.samples(network.part.name)
            observations[network.part.name] = Observation(groups, network.needs, total, max_rows, finite, samples)
    return observations


def seen_for_numbers_alone(
    recorded: Sequence[Network], observations: Mapping[str, Observation], finite: Finite
) -> Observation:
    """The groups of networks whose calls are recorded and that nobody else looks at: NaN and infinity are told now."""
    known: set[str] = set()
    for observation in observations.values():
        known |= {group.name for group in observation.groups}
    groups: list[Group] = []
    for network in recorded:
        groups += [group for group in network.groups if group.name not in known]
    return Observation(groups, frozenset(), 0, 1, finite)


def until_seen(
    denoisers: Sequence[Part], chosen: ChosenCalls, groups: Mapping[str, Sequence[Group]]
) -> Callable[[int], AbstractContextManager[None]]:
    """What leaves the run of a sample once all of its chosen calls were made, and the groups seen in the last one."""
    return lambda sample: left_when_seen(denoisers, chosen.last(sample), groups)
