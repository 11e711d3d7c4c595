"""The float run of a calibration, sample by sample: calls recorded, inputs observed, each finished sample kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from llmc import distributed
from llmc.atomic import scratch_folder
from llmc.calib.budget import ChosenCalls
from llmc.calib.coverage import Coverage
from llmc.calib.journal import Journal
from llmc.calib.observation import Observation
from llmc.calib.record import Watch, record_calls
from llmc.calib.sample_journal import SampleJournal
from llmc.engine.budget import forwards_until
from llmc.log import log
from llmc.memory import needed_for
from llmc.models.loaded import LoadedModel
from llmc.models.parts import Part
from llmc.models.samples import PlannedSamples
from llmc.progress import progress

LESS = (
    "calib.streamed: True, which observes one block at a time; less base.memory, beyond which what blocks give lies in "
    "files; fewer calib.max_rows; smaller or shorter videos (calib.target_height, target_width, num_frames); "
    "model.torch_dtype: bfloat16"
)


@contextmanager
def folder_of_calls(journal: Journal | None) -> Iterator[Path]:
    """Where calls are recorded: what a run that was cut off is to go on with stays."""
    if journal is not None:
        yield journal.recording()
        return
    with scratch_folder("calls") as folder:
        yield folder


def float_run(
    model: LoadedModel,
    parts: Sequence[Part],
    planned: PlannedSamples,
    samples: SampleJournal,
    observations: Sequence[Observation],
    watch: Watch,
) -> Coverage:
    """Run the samples of this rank that are not finished; returns the chosen calls of all of them, counted. Of a sample
    with NaN or infinity nothing is kept."""
    if samples.finished:
        log.info("%d of %d calibration samples were recorded before", len(samples.finished), len(planned))
    coverage = samples.coverage
    watch = replace(watch, coverage=coverage)
    with ExitStack() as stack:
        stack.enter_context(needed_for("recording the calibration videos", LESS))
        waiting = planned[len(samples.finished) :]
        ends = forwards_until(model, waiting, watch.chosen or ChosenCalls())
        total = max(ends.values(), default=0)
        shown = stack.enter_context(progress("calibration videos", total, "forwards"))
        for observation in observations:
            stack.enter_context(observation.watching())
        for turn in range(max(distributed.gather(len(waiting)))):  # all ranks check as often
            one = waiting[turn : turn + 1]
            record_calls(model, parts, one, samples.stores, watch=replace(watch, shown=shown))
            if watch.finite is not None:
                watch.finite.check()
            for index, _, _ in one:
                samples.keep(index, coverage)
                shown.reach(ends[index])
    return coverage
