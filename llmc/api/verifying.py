"""Verify an export from a notebook."""

from __future__ import annotations

from pathlib import Path

from llmc.api.result import Result
from llmc.verify.run import verify as verify_export
from llmc.verify.verdict import Report


def verify(
    path: str | Path, against: Result | str | Path | None = None, float_model: str | Path | None = None
) -> Report:
    """Read a written export with an independent reader, and hold it to every rule of its runtime, and to the run that
    it came from: a result, or the folder of its run."""
    run = against.run_dir if isinstance(against, Result) else against
    folders = [None if folder is None else Path(folder) for folder in (run, float_model)]
    return verify_export(Path(path), *folders)
