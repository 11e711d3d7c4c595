"""A float run kept on disk: its videos, and every call of its networks. The next run with the same inputs reads it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmc.calib.sample_journal import SampleJournal
from llmc.calib.store import CallStore
from llmc.log import log
from llmc.models.samples import Video

UNFINISHED = ".partial"  # how its folder ends until all samples are there


@dataclass(frozen=True)
class Recording:
    """What a float run gave."""

    videos: list[Video]
    calls: dict[str, CallStore]  # part -> its calls, with outputs


def cached_recording(
    folder: Path, parts: Sequence[str], samples: Sequence[int], record: Callable[[int, dict[str, CallStore]], Video]
) -> Recording:
    """Open the recording in `folder`, or make it there sample by sample, going on where an earlier run was cut off."""
    if folder.is_dir():
        journal = SampleJournal(folder, parts, samples)
        if not journal.missing:
            log.info("the float videos are there already: read from %s", folder)
            return _recording(journal)
        shutil.rmtree(folder)
    partial = folder.with_name(folder.name + UNFINISHED)
    journal = SampleJournal(partial, parts, samples)
    if journal.finished:
        log.info("%d of %d float videos were made before", len(journal.finished), len(samples))
    try:
        for sample in journal.missing:
            journal.keep(sample, video=record(sample, journal.stores))
    except BaseException:
        journal.give_back()
        raise
    if journal.is_kept:
        partial.rename(folder)
        journal = SampleJournal(folder, parts, samples)
    return _recording(journal)


def fingerprint(*things: object) -> str:
    """A short name of everything that a result depends on; folders stand for their files' names, sizes and times."""
    text = json.dumps([_describe(thing) for thing in things], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _describe(thing: object) -> object:
    if isinstance(thing, Path):
        files = sorted(thing.rglob("*")) if thing.is_dir() else [thing]
        stats = [(str(file.relative_to(thing)), file.stat()) for file in files if file.is_file()]
        return [str(thing.resolve()), [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]]
    return [_describe(item) for item in thing] if isinstance(thing, list | tuple) else thing


def _recording(journal: SampleJournal) -> Recording:
    videos = [finished.video for finished in journal.finished.values() if finished.video is not None]
    return Recording(videos, journal.stores)
