"""The folder of a pipeline around networks of our own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Set
from pathlib import Path


def link_pipeline(source: Path, folder: Path, without: Set[str]) -> None:
    """Everything of a pipeline folder but the files of some components, of which a lone one lies in the folder itself;
    hard links where the file system can: nothing changes."""
    left_out = {Path(component) for component in without}
    for file in sorted(source.rglob("*")):
        inside = file.relative_to(source)
        if not file.is_file() or inside.parent in left_out or inside.parts[0].startswith("."):
            continue
        target = folder / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(file.resolve(), target)
        except OSError:  # another file system
            shutil.copyfile(file, target)
