"""A float run kept on disk: its videos, and every call of its networks. The next run with the same inputs reads it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file

from llmc.calib.seal import check_folder, seal_folder
from llmc.calib.store import CallStore, write_tensors
from llmc.errors import CalibrationError
from llmc.log import log
from llmc.models.base import Video

VIDEOS = "videos.safetensors"


@dataclass(frozen=True)
class Recording:
    """What a float run gave."""

    videos: list[Video]
    calls: dict[str, CallStore]  # part -> its calls, with outputs


def cached_recording(
    folder: Path, parts: Sequence[str], record: Callable[[dict[str, CallStore]], list[Video]]
) -> tuple[Recording, bool]:
    """Open the recording in `folder`, or make it there; also says whether it was there already, and whole."""
    if folder.is_dir():
        try:
            return _opened(folder, parts), True
        except CalibrationError as error:
            log.warning("%s", error)
            log.warning("%s is damaged: the float run is made again", folder)
            shutil.rmtree(folder)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        stores = {part: CallStore(partial / part) for part in parts}
        videos = record(stores)
        for store in stores.values():
            store.save_index()
        tensors = {f"frames.{i}": video.frames.contiguous() for i, video in enumerate(videos)}
        tensors |= {f"latents.{i}": video.latents.contiguous() for i, video in enumerate(videos)}
        write_tensors(partial / VIDEOS, tensors)
        seal_folder(partial)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # on a full disk the room is needed
    return Recording(videos, {part: CallStore.open(folder / part) for part in parts}), False


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


def _opened(folder: Path, parts: Sequence[str]) -> Recording:
    """A recording that is whole."""
    check_folder(folder)
    calls = {part: CallStore.open(folder / part) for part in parts}
    tensors = load_file(folder / VIDEOS)
    videos = [Video(tensors[f"frames.{i}"], tensors[f"latents.{i}"]) for i in range(len(tensors) // 2)]
    return Recording(videos, calls)
