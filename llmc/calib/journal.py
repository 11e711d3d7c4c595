"""Finished blocks on disk, so that a run that was cut off goes on after them.

A file holds all that a recipe decided about one block. The block itself goes on with what is read back: so nothing else
can come of a run that was cut off, and codes lie in pages that the system can take back while nobody reads them.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llmc import distributed
from llmc.calib.block import BlockStep
from llmc.calib.coverage import Coverage
from llmc.calib.value_folder import Kept
from llmc.calib.values_on_disk import waiting
from llmc.errors import CalibrationError
from llmc.layers.attention import QuantAttention
from llmc.log import log

COVERAGE, ATTENTIONS = "coverage", "attentions"


@dataclass(frozen=True)
class Journal:
    """A folder of finished blocks; of several ranks, which all come to the same, one writes."""

    folder: Path
    writes: bool = True

    def keep(self, part: str, block: BlockStep) -> None:
        """Note that a block is finished."""
        if not self.writes:
            return
        try:
            self._kept.put(_name(part, block), _content(block))
        except TypeError as error:
            log.warning("%s of %s cannot be kept: %s; if the run is cut off it starts over", block.name, part, error)
            return
        _restore(block, self._kept.get(_name(part, block), block.device))

    def restore(self, part: str, blocks: Sequence[BlockStep]) -> int:
        """Bring back the blocks that are finished, from the first one on; returns how many there are on every rank."""
        found: list[dict[str, Any]] = []
        for block in blocks:
            try:
                found.append(self._kept.get(_name(part, block), block.device))
            except FileNotFoundError:
                break
            except CalibrationError as error:
                log.warning("%s; blocks from there on are calibrated again", error)
                break
        count = min(distributed.gather(len(found)))
        for block, content in zip(blocks, found[:count], strict=False):
            _restore(block, content)
        return count

    def keep_attentions(self, part: str, attentions: Mapping[str, QuantAttention], errors: Mapping[str, float]) -> None:
        """Note that the attentions of a part are calibrated."""
        states = {name: attention.state for name, attention in attentions.items()}
        if self.writes:
            self._kept.put(f"{part}.{ATTENTIONS}", {"states": states, "errors": dict(errors)})

    def restore_attentions(
        self, part: str, attentions: Mapping[str, QuantAttention], device: torch.device
    ) -> dict[str, float] | None:
        """Bring back the attentions of a part, on every rank; returns the error of each, or None if they were not
        calibrated."""
        found: dict[str, Any] | None = None
        try:
            found = self._kept.get(f"{part}.{ATTENTIONS}", device)
        except FileNotFoundError:
            pass
        except CalibrationError as error:
            log.warning("%s; attentions are calibrated again", error)
        everywhere = all(distributed.gather(found is not None))
        if found is None or not everywhere:
            return None
        for name, state in found["states"].items():
            attentions[name].state = state
        errors: dict[str, float] = found["errors"]
        return errors

    def keep_coverage(self, coverage: Coverage) -> None:
        """Note which calls were observed: once all blocks are finished none will be."""
        if self.writes:
            self._kept.put(COVERAGE, coverage)

    def coverage(self) -> Coverage:
        """The calls that were observed; none where the recipe needed none."""
        found = self._kept.get(COVERAGE) if self._kept.has(COVERAGE) else Coverage()
        assert isinstance(found, Coverage)
        return found

    def forget_recording(self, blocks: Iterable[tuple[str, BlockStep]]) -> None:
        """Give back the room of the samples that this rank ran, if nobody will ask for them: every block is here."""
        if all(self._kept.path(_name(part, block)).is_file() for part, block in blocks):
            shutil.rmtree(self.recording(), ignore_errors=True)

    def recording(self) -> Path:
        """Where this rank keeps the samples that it ran."""
        return self.folder / f"recorded-{distributed.rank()}of{distributed.world()}"

    @property
    def _kept(self) -> Kept:
        return Kept(self.folder)


def _name(part: str, block: BlockStep) -> str:
    return f"{part}.{block.name}"


def _content(block: BlockStep) -> dict[str, Any]:
    return {
        "states": {name: waiting(layer) for name, layer in block.linears.items()},
        "stats": {group.name: group.stats for group in block.groups},
        "errors": block.errors,
        "rejected": dict(block.rejected),
    }


def _restore(block: BlockStep, content: dict[str, Any]) -> None:
    for name, layer in block.linears.items():
        layer.state = content["states"][name]
    for group in block.groups:
        group.stats = content["stats"][group.name]
    block.errors, block.rejected = content["errors"], Counter(content["rejected"])
    block.on_disk = True
