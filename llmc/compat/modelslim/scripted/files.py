"""Files of calibration data and of prompts: what others may have written is not read."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path
from typing import Any

from llmc.compat.modelslim.scripted.calib_data import CalibData
from llmc.convert.writer import write_pickle
from llmc.errors import CalibrationError
from llmc.files.state_dict import Unreadable, load_saved

BY_OTHERS = 0o022  # the bits of a mode with which others than the owner can write
MOST = 0o640  # of a file of prompts
ORIGIN, CALLS = "dumped_from", "calls"  # what a file of calibration data has


def write_calib_data(file: Path, calib_data: CalibData) -> None:
    """A file that only its owner can read; `safe_torch_load` gives the same again."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_pickle(file, {ORIGIN: dict(calib_data.origin), CALLS: list(calib_data)}, mode=0o600)


def safe_torch_load(path: str | os.PathLike[str], map_location: Any = None) -> Any:
    """Tensors, containers and plain values of a file that `torch.save` wrote; code in it is never run. Of a dump, its
    calls, which know their model."""
    trusted = trusted_file(path)
    try:
        found = load_saved(trusted, CalibrationError, mmap=False, map_location=map_location)
    except Unreadable as error:
        raise CalibrationError(
            f"{trusted} holds more than tensors, containers and plain values, is damaged, or was on a device that is "
            "not here; only such values of a whole file are read: write it again, by DumperManager.save, or give "
            f"map_location='cpu'.\n  torch says: {error}"
        ) from error
    if isinstance(found, dict) and found.keys() == {ORIGIN, CALLS}:
        return CalibData(found[CALLS], found[ORIGIN])
    return found


def private_file(path: str | os.PathLike[str]) -> Path:
    """The path, if it is trusted, and has a mode of at most 0o640."""
    file = trusted_file(path)
    mode = stat.S_IMODE(file.stat().st_mode)
    if mode & ~MOST:
        raise CalibrationError(
            f"{file} has the mode {mode:#o}; its owner may read and write it, the group read it, others nothing: run "
            f"`chmod 640 {shlex.quote(str(file))}`"
        )
    return file


def trusted_file(path: str | os.PathLike[str]) -> Path:
    """The path, if a regular file is there that nobody but its owner can have written."""
    file = Path(path)
    try:
        mode = file.lstat().st_mode
    except FileNotFoundError as error:
        raise CalibrationError(f"{file} is not there; name a file that exists") from error
    if stat.S_ISLNK(mode):
        raise CalibrationError(
            f"{file} is a symbolic link, which another user could point elsewhere; name the file: {file.resolve()}"
        )
    if not stat.S_ISREG(mode):
        raise CalibrationError(f"{file} is not a regular file; name a file")
    if mode & BY_OTHERS:
        raise CalibrationError(
            f"{file} has the mode {stat.S_IMODE(mode):#o}, so that others than its owner can write it; only the owner "
            f"may: run `chmod 640 {shlex.quote(str(file))}` if you trust what is in it"
        )
    return file
