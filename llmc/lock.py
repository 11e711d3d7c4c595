"""One run at a time in a folder: a file there says who is at work, and the system frees it when that process ends."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from llmc.atomic import PARTIAL
from llmc.errors import FolderInUse

LOCK = ".llmc.lock"
NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})  # of some network file systems


@contextmanager
def held(folder: Path, key: str, rank: int = 0) -> Iterator[None]:
    """Keep other runs out of a folder while the body runs, or be refused; `key` is what names another folder. Of the
    processes of one run the first holds it for all, and may do so twice."""
    if rank > 0:
        yield
        return
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _held(folder / LOCK, key):
            yield
    finally:
        with suppress(OSError):  # something was left in it
            for place in made:
                place.rmdir()


@contextmanager
def _held(path: Path, key: str) -> Iterator[None]:
    handle = _locked(path)
    if handle is None:
        holder = _holder(path)
        if (holder.get("pid"), holder.get("host")) != (os.getpid(), socket.gethostname()):
            raise FolderInUse(_refusal(path.parent, holder, key))
        yield
        return
    try:
        os.truncate(handle, 0)
        os.write(handle, json.dumps(_ourselves()).encode())
        _remove_partial(path.parent)
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is ours
        os.close(handle)


def command() -> str:
    """What was typed to start this process, to be typed again."""
    return shlex.join(sys.orig_argv)


def _locked(path: Path) -> int | None:
    """The file, open and ours; None if another process has it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            logging.getLogger(__name__).warning(
                "%s cannot be locked (%s): start no second run there", path, error.strerror
            )
            return handle
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        os.close(handle)  # whose it was has just ended, and took the file along


def _remove_partial(folder: Path) -> None:
    """Give back the space of files that killed processes were writing here, but where another run is at work."""
    for file in folder.rglob(f".[0-9]*{PARTIAL}*"):
        if not any((place / LOCK).exists() for place in file.parents if folder in place.parents):
            file.unlink(missing_ok=True)


def _ourselves() -> dict[str, str | int]:
    now = datetime.now().astimezone().isoformat(" ", "seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": now, "command": command()}


def _holder(path: Path) -> dict[str, str | int]:
    """What the holder says of itself; nothing, if it has just begun, or just ended."""
    try:
        found: dict[str, str | int] = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found


def _refusal(folder: Path, holder: dict[str, str | int], key: str) -> str:
    who = "a process that has begun just now"
    if holder:
        where = "" if holder["host"] == socket.gethostname() else f" on {holder['host']}"
        who = f"process {holder['pid']}{where}, since {holder['since']}: {holder['command']}"
    return (
        f"{folder} is in use by {who}\n  One run at a time works in a folder: wait until that one has ended, or end "
        f"it, or name another folder ({key})."
    )
