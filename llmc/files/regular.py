"""Regular files, opened: a FIFO would be waited for without end, and a device read without end."""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path, PurePosixPath

from llmc.errors import LlmcError
from llmc.files.words import shown

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def file_problem(path: Path) -> str:
    """Why nothing can be read at `path`, to be said after its name; empty if a regular file, or a link to one, is
    there."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "is no file: it is a link that leads nowhere" if path.is_symlink() else "is no file: it is not there"
    except OSError as error:
        return f"is no file that can be read: {error.strerror}"
    except ValueError:  # of a zero byte
        return "is no file: no name has a zero byte in it"
    if stat.S_ISREG(mode):
        return ""
    return f"is no file: it is {KINDS.get(stat.S_IFMT(mode), 'something else')}"


def check_file(path: Path, refusal: type[LlmcError]) -> None:
    """Refuse what is no regular file, before a library opens it."""
    if problem := file_problem(path):
        raise refusal(f"{shown(path)} {problem}; only regular files are read: put the file itself there")


def open_file(path: Path, refusal: type[LlmcError]) -> BufferedReader:
    """A regular file, opened."""
    check_file(path, refusal)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # should a FIFO have come there since
    except OSError as error:
        raise refusal(f"{path} cannot be opened: {error.strerror}; give access to it, and try again") from error
    return os.fdopen(handle, "rb")


def read_file(path: Path, most: int, refusal: type[LlmcError]) -> bytes:
    """All of a file, which has at most so many bytes."""
    with open_file(path, refusal) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise refusal(f"{path} has more than {most} bytes, which no file of its kind has; copy or download it again")
    return content


def is_inside(name: str) -> bool:
    """Whether a name that a file gives stays below that file's folder, as it is written: links are not followed."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name
