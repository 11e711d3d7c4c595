"""What a run writes: folders that can be made, where nothing else lies in the way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from llmc.config.document import KeyPath
from llmc.config.explain import Problem
from llmc.config.paths import MAX_NAME, some_files
from llmc.config.schema import Config
from llmc.errors import ConfigError
from llmc.export.manifest import UNFINISHED
from llmc.files.header import read_header


def output_problems(config: Config) -> Iterator[Problem]:
    """Whether folders can be made where they are asked for, and nothing else lies where the export is to be written."""
    yield from _unwritable(("base", "run_dir"), config.run_dir)
    if config.eval is not None and config.eval.output_video_path is not None:
        yield from _unwritable(("eval", "output_video_path"), config.eval.output_video_path)
    keys: KeyPath = ("save", "path")
    path = config.save.path
    if path is None:
        return
    if unwritable := list(_unwritable(keys, path)):
        yield from unwritable
        return
    if path.resolve().is_relative_to(config.model.path.resolve()):
        yield Problem(keys, f"{path} is the folder of the float model, or lies in it; name another one")
        return
    for exporter, folder in config.save.targets():
        inside = _found_in(folder, {other.name for _, other in config.save.targets() if other.parent == folder})
        if inside and not config.save.overwrite and _written_for(folder) != config.fingerprint():
            yield Problem(
                keys, f"{folder} holds {inside}, which this configuration did not write; "
                "name another folder, or add `overwrite: True`"
            )  # fmt: skip
        elif (obstacle := exporter.obstacle(folder)) is not None:
            yield Problem(keys, obstacle)


def _unwritable(keys: KeyPath, path: Path) -> Iterator[Problem]:
    if max(len(os.fsencode(part)) for part in path.absolute().parts) > MAX_NAME:
        yield Problem(keys, f"{path} has a name of more than {MAX_NAME} bytes in it; name another one")
        return
    there = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    if not there.is_dir():
        yield Problem(keys, f"{there} is a file; name a folder")
    elif not os.access(there, os.W_OK | os.X_OK):
        yield Problem(keys, f"{there} may not be written to; name a folder elsewhere, or give access")


def _found_in(folder: Path, expected: set[str]) -> str:
    """The first few names in a folder; hidden ones are ours, of a run that goes on there or was killed."""
    found = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    names = sorted(name for name in found if name not in expected and not name.startswith("."))
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _written_for(folder: Path) -> str | None:
    """The fingerprint of what is being written there, or in the metadata of a checkpoint; None if nothing is ours."""
    if (folder / UNFINISHED).is_file():
        return (folder / UNFINISHED).read_text(encoding="utf-8")
    for file in sorted(file for file in some_files(folder) if file.suffix == ".safetensors"):
        try:
            found = read_header(file, ConfigError).metadata.get("fingerprint")
        except ConfigError:  # so nothing of ours
            continue
        if found is not None:  # files that were only linked there say nothing
            return found
    return None
