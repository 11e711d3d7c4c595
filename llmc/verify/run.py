"""Find the target that an export was written for, and hold the export to its rules."""

from __future__ import annotations

from pathlib import Path

from llmc.errors import ExportError
from llmc.plugin import discover
from llmc.verify.base import Target
from llmc.verify.sources import find_sources
from llmc.verify.verdict import Report


def verify(path: Path, against: Path | None = None, float_model: Path | None = None) -> Report:
    """Every rule of the target that `path` was written for."""
    target = find_target(path)
    return Report(str(path), target.name, tuple(target.verdicts(path, find_sources(float_model, against))))


def find_target(path: Path) -> Target:
    """The target that knows this export as its own."""
    targets: list[Target] = [cls() for cls in discover("llmc.verify", Target).values()]
    found = [target for target in targets if target.recognizes(path)]
    if found:
        return found[0]
    inside = ", ".join(sorted(file.name for file in path.iterdir())[:6]) if path.is_dir() else "a file"
    raise ExportError(
        f"{path} is no export that can be verified (found: {inside or 'nothing'}); "
        f"known are those for {', '.join(target.name for target in targets)}; give the folder that holds the checkpoint"
    )
