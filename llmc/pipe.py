"""Output that goes into a pipe, such as `llmc list | head -1`: whoever reads it may stop, and that is no fault."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from signal import SIGPIPE
from typing import TextIO

ENDED = 128 + SIGPIPE  # as a shell tells of a program that the signal ended


@contextmanager
def ended_with_its_reader() -> Iterator[None]:
    """Leave the body, and exit without a word, once nobody reads what it prints."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # now: at exit, Python would complain
    except BrokenPipeError:
        closed = [stream for stream in (sys.stdout, sys.stderr) if is_closed(stream)]
        if not closed:
            raise
        for stream in closed:  # what is still to be flushed goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise SystemExit(ENDED) from None


def is_closed(stream: TextIO) -> bool:
    """Whether nobody reads what goes into a stream."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
    except (OSError, ValueError):  # no file of the system, or none any more
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))
