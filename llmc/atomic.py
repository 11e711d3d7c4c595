"""Files that are there whole or not at all: written under another name, flushed to the disk, then renamed.

What is not to stay is locked by the process that needs it, so that the next one can tell what a killed one left.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

STAGE = ".writing-"  # how the hidden folder of a `staged_folder` begins
PARTIAL = ".partial."  # between the process and the name of a file that is being written
SCRATCH = "llmc-"  # how what lies in TMPDIR begins
PURPOSES = ("calls", "codes", "video")  # of it
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A name beside `path`, with its suffix, to write under; it becomes `path` when the body ends without an error."""
    partial = path.with_name(f".{os.getpid()}{PARTIAL}{path.name}")
    try:
        yield partial
        _flush(partial)
        partial.replace(path)
        _flush(path.parent)  # the name itself survives a power cut only then
    except OSError as error:
        if error.errno in NO_ROOM and error.filename is None:  # the system does not say what it could not write
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_file(path: Path, mode: int | None = None) -> Iterator[BinaryIO]:
    """A file to write; it gets its name (and `mode`, else the umask's) only when the body ends without an error."""
    with atomic_path(path) as partial, partial.open("wb") as file:
        yield file
        if mode is not None:
            os.fchmod(file.fileno(), mode)
        file.flush()


@contextmanager
def staged_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder to write into; its files move into `folder` only when the body ends without an error."""
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder, STAGE)
    try:
        with _folder_of_ours(folder, STAGE) as stage:
            yield stage
            # what names other files comes last, so that it never names one that is not there
            for file in sorted(stage.iterdir(), key=lambda file: (file.suffix == ".json", file.name)):
                file.replace(folder / file.name)
            _flush(folder)
    finally:
        if made and not any(folder.iterdir()):
            folder.rmdir()


@contextmanager
def scratch_folder(purpose: str, place: Path | None = None) -> Iterator[Path]:
    """A folder in TMPDIR for what is needed while the body runs; or in another place, where what killed processes left
    goes now."""
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(place, _scratch(purpose))
    with _folder_of_ours(place or Path(tempfile.gettempdir()), _scratch(purpose)) as folder:
        yield folder


def remove_abandoned_scratch() -> None:
    """Give back the space in TMPDIR of processes that were killed."""
    for purpose in PURPOSES:
        _remove_abandoned(Path(tempfile.gettempdir()), _scratch(purpose))


def _scratch(purpose: str) -> str:
    assert purpose in PURPOSES, f"nobody would remove what is left of {purpose}"
    return f"{SCRATCH}{purpose}-"


@contextmanager
def _folder_of_ours(place: Path, prefix: str) -> Iterator[Path]:
    """A new folder, locked: the system lets go of it when the process dies, however it dies."""
    folder, lock = _locked_folder(place, prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
        os.close(lock)


def _locked_folder(place: Path, prefix: str) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # somebody who tidies up was quicker than the lock
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder, lock
        os.close(lock)


def _remove_abandoned(place: Path, prefix: str) -> None:
    """Give back the space of what a killed process was writing here; one that still writes holds the lock."""
    for found in place.glob(f"{prefix}{'[a-z0-9_]' * 8}"):  # as tempfile goes on
        try:
            lock = os.open(found, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # of another user, gone, or no folder
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_uid == os.getuid():
                shutil.rmtree(found, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)


def _flush(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
