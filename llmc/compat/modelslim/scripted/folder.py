"""The folder that a script saves to: what an earlier save left there goes, and what nobody would replace is told."""

from __future__ import annotations

import re
from pathlib import Path

from llmc.compat.modelslim.scripted.ranks import get_rank, get_world
from llmc.errors import ExportError
from llmc.export.manifest import MANIFEST
from llmc.export.mindie.policy import POLICY

OURS = "quant_model_*"  # what the files are called where a script gives them no name of its own
OF_RANK = re.compile(r"_(\d+)\.\w+$")  # how the names of a process' own files end


def check_folder(folder: Path, called: str, safetensors_name: str | None = None) -> None:
    """Refuse a folder with weights in it that would stay beside those of this save; `called` is the user's word."""
    weights = {path.name for path in folder.glob("*.safetensors") if belongs_here(path.name)}
    replaced = {path.name for path in folder.glob(OURS)} | {safetensors_name}
    if beside := sorted(weights - replaced):
        raise ExportError(
            f"{called} is {folder}, which holds {', '.join(beside)} too, and MindIE-SD reads one file of weights; move "
            "away what is there, or name another folder"
        )


def clear_folder(folder: Path, written: set[str]) -> None:
    """Remove what an earlier save left; other processes remove their own."""
    stale = [path for path in folder.glob(OURS) if belongs_here(path.name)] + [folder / POLICY]
    for path in stale:
        if path.name not in written:
            path.unlink(missing_ok=True)


def forget_manifest(folder: Path) -> None:
    """Until all is written nothing says so; of several processes none will, and the card of one alone goes too."""
    if (folder / MANIFEST).exists() and get_rank() >= 0:
        (folder / "README.md").unlink(missing_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)


def belongs_here(name: str) -> bool:
    """Whether a file is for this process to replace: its own, and for the first one those of no process that runs."""
    rank, end = get_rank(), OF_RANK.search(name)
    if rank < 0:
        return True
    owner = int(end[1]) if end is not None else get_world()
    return owner == rank or (rank == 0 and owner >= get_world())
