"""Files that are there whole or not at all: written under another name, flushed to the disk, then renamed."""

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
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A name beside `path`, with its suffix, to write under; it becomes `path` when the body ends without an error."""
    partial = path.with_name(f".{os.getpid()}.partial.{path.name}")
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
    _remove_abandoned(folder)
    stage = Path(tempfile.mkdtemp(prefix=STAGE, dir=folder))
    lock = os.open(stage, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # the system lets go of it when the process dies, however it dies
    try:
        yield stage
        # what names other files comes last, so that it never names one that is not there
        for file in sorted(stage.iterdir(), key=lambda file: (file.suffix == ".json", file.name)):
            file.replace(folder / file.name)
        _flush(folder)
    finally:
        os.close(lock)
        shutil.rmtree(stage)
        if made and not any(folder.iterdir()):
            folder.rmdir()


def _remove_abandoned(folder: Path) -> None:
    """Give back the space of what a killed process was writing here; one that still writes holds the lock."""
    for stage in folder.glob(f"{STAGE}*"):
        lock = os.open(stage, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(stage)
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
