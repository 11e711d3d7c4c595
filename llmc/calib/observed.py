"""What observers have seen of the samples so far, on disk, so that a float run that was cut off goes on after them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from llmc.calib.group import Group
from llmc.calib.observation import Observation
from llmc.calib.value_folder import Kept
from llmc.errors import CalibrationError
from llmc.log import byte_size, log

OBSERVED, UNFINISHED = "observed-", ".partial"  # before the number of samples; while it is written
QUICK = 5.0  # seconds: writing that takes no longer is always worth its while
SHARE = 0.1  # of the time, at most, that longer writing may take: Gram matrices of a whole network are tens of GB


class Observed:
    """The state of every observer of some observations, after each sample in place of the last."""

    def __init__(self, folder: Path, observations: Sequence[Observation]) -> None:
        self.folder, self.observations = folder, observations
        self._took, self._since = 0.0, time.monotonic()

    def latest(self, samples: int) -> int:
        """How many of so many samples an earlier run had seen when it last noted it."""
        return max((number for number in self._numbers() if number <= samples), default=0)

    def restore(self, samples: int) -> None:
        """Put the observers into the state that was noted after so many samples."""
        kept = Kept(self.folder / f"{OBSERVED}{samples}")
        try:
            states = [(observation, group, kept.get(group.name, group.device)) for observation, group in self._groups()]
        except FileNotFoundError as error:
            raise CalibrationError(f"{error.filename or kept.folder} is not there") from error
        for observation, group, state in states:
            observation.restore(group, state)

    def keep(self, samples: int) -> None:
        """Note what has been seen after so many samples, unless it takes too long, or more room than there is."""
        slow = self._took > QUICK and self._took > SHARE * (time.monotonic() - self._since)
        if not self.observations or slow or not self._has_room():
            return
        began, before = time.monotonic(), self._numbers()
        partial, folder = Kept(self.folder / f"{OBSERVED}{samples}{UNFINISHED}"), self.folder / f"{OBSERVED}{samples}"
        partial.remove()
        for observation, group in self._groups():
            partial.put(group.name, observation.state(group))
        partial.folder.rename(folder)
        for number in before:
            shutil.rmtree(self.folder / f"{OBSERVED}{number}")
        self._took, self._since = time.monotonic() - began, time.monotonic()

    def _has_room(self) -> bool:
        needed = sum(_bytes(observation.state(group)) for observation, group in self._groups())
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if needed < free:
            return True
        log.warning(
            "%s has %s free, and what was observed so far takes %s: it is not kept, and if the run is cut off the "
            "calibration videos are made again", self.folder, byte_size(free), byte_size(needed),
        )  # fmt: skip
        return False

    def _groups(self) -> Iterator[tuple[Observation, Group]]:
        for observation in self.observations:
            for group in observation.groups:
                yield observation, group

    def _numbers(self) -> list[int]:
        return [int(path.name[len(OBSERVED) :]) for path in self.folder.glob(f"{OBSERVED}*") if path.suffix == ""]


def _bytes(value: Any) -> int:
    """Of all tensors in nested values."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, dict):
        return sum(map(_bytes, value.values()))
    return sum(map(_bytes, value)) if isinstance(value, list | tuple) else 0
