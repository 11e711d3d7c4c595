"""What a run says while it works, in lines. Quiet until `start` is called.

Text of others, such as keys, prompts and paths, is made fit for a terminal first: nothing in it takes effect.
"""

from __future__ import annotations

import logging
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST = 1500  # characters of one problem; messages of ours have a few hundred

log = logging.getLogger("llmc")


def visible(text: str) -> str:
    """The text with an escape in place of each control character (but line breaks), half surrogate pair, and mark that
    turns the direction of text: a terminal would obey them."""
    if text.isprintable():
        return text
    return "".join(character if character == "\n" or _is_plain(character) else _escape(character) for character in text)


def one_line(text: str, most: int = LONGEST) -> str:
    """The text, visible, in one line of about so many characters."""
    return visible(shortened(text, most)).replace("\n", "\\n")


def shortened(text: str, most: int = LONGEST) -> str:
    """The text, with its middle cut out where it is longer than that: what to do stands at the end."""
    tail = most // 4
    return text if len(text) <= most else f"{text[: most - tail - 5]} ... {text[-tail:]}"


def _is_plain(character: str) -> bool:
    """Spaces of other scripts are no printable characters to Python, and do no harm."""
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


class _Visible(logging.Formatter):
    """Lines whose names and prompts take no effect."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


class _Stderr(logging.Handler):
    """Writes to whatever sys.stderr is at that moment: a progress bar takes its place while it is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


@contextmanager
def start(verbose: bool = False) -> Iterator[None]:
    """Show the log on stderr while a command runs; ranks other than the first say nothing but warnings."""
    handler = _Stderr()
    handler.setFormatter(_Visible("%(message)s"))
    handler.setLevel((logging.DEBUG if verbose else logging.INFO) if speaks() else logging.WARNING)
    level = log.level
    log.setLevel(logging.DEBUG)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


@contextmanager
def attach_file(path: Path) -> Iterator[None]:
    """Also write the log to a file while the body runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_Visible("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


def duration(seconds: float) -> str:
    """`3:07`, or `2:03:07`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def byte_size(count: float) -> str:
    """`12 bytes`, `3.4 kB`, or `1.23 GB`."""
    units = ["TB", "GB", "MB", "kB", "bytes"]
    unit = units.pop()
    while count >= 999.5 and units:
        count, unit = count / 1000, units.pop()
    return f"{count:.3g} {unit}" if units else f"{count:.0f} {unit}"


def speaks() -> bool:
    """Whether this rank is the one that tells of all."""
    return os.environ.get("RANK", "0") == "0"
