"""Finished samples of a run of the pipeline on disk, so that one that was cut off goes on after them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from llmc.calib.coverage import Coverage
from llmc.calib.observation import Observation
from llmc.calib.observed import Observed
from llmc.calib.store import Call, CallStore
from llmc.calib.value_folder import Kept
from llmc.errors import CalibrationError
from llmc.log import log
from llmc.models.samples import Video


@dataclass(frozen=True)
class Finished:
    """What one sample gave."""

    calls: Mapping[str, list[Call]]  # part -> its calls, without tensors, which are in its store
    coverage: Coverage
    video: Video | None = None


class SampleJournal:
    """Samples in the order in which they are run, those that are finished, and a store for the calls of each part."""

    def __init__(
        self, folder: Path, parts: Sequence[str], samples: Sequence[int], observations: Sequence[Observation] = ()
    ) -> None:
        """Open what is there of these samples, and put the observers into the state after them; all of it goes if some
        is damaged."""
        self.folder, self.parts, self.samples = folder, parts, samples
        self.finished: dict[int, Finished] = {}
        self.stores: dict[str, CallStore] = {}
        self.is_kept = True  # unless a network was called with what cannot be written down
        self._kept, self._observed = Kept(folder), Observed(folder, observations)
        try:
            self._open()
        except CalibrationError as error:
            log.warning("%s is damaged, and made again (%s)", folder, error)
            shutil.rmtree(folder)
            self._open()

    @property
    def coverage(self) -> Coverage:
        """The calls of all finished samples."""
        seen = Coverage()
        for finished in self.finished.values():
            seen.add(finished.coverage)
        return seen

    @property
    def missing(self) -> list[int]:
        return [sample for sample in self.samples if sample not in self.finished]

    def keep(self, sample: int, coverage: Coverage | None = None, video: Video | None = None) -> None:
        """Note that a sample is finished, after those before it."""
        calls = {part: [call for call in store.index() if call.sample == sample] for part, store in self.stores.items()}
        self.finished[sample] = Finished(calls, Coverage() if coverage is None else coverage.of(sample), video)
        if not self.is_kept:
            return
        try:
            self._kept.put(_name(sample), self.finished[sample])
        except TypeError as error:
            self.is_kept = False
            log.warning("sample %d cannot be kept: %s; if the run is cut off it starts over there", sample, error)
            return
        self.finished[sample] = self._kept.get(_name(sample))
        self._observed.keep(len(self.finished))

    def give_back(self) -> None:
        """Free the room of a sample that was cut off; of all, if none is finished."""
        if self.finished:
            self._open()
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _open(self) -> None:
        whole = list(takewhile(lambda sample: self._kept.has(_name(sample)), self.samples))
        if self._observed.observations:
            whole = whole[: self._observed.latest(len(whole))]
        self.finished = {sample: self._kept.get(_name(sample)) for sample in whole}
        for part in self.parts:
            calls = [call for finished in self.finished.values() for call in finished.calls.get(part, [])]
            self.stores[part] = CallStore.open(self.folder / part, calls)
        if whole:
            self._observed.restore(len(whole))


def _name(sample: int) -> str:
    return f"sample.{sample}"
