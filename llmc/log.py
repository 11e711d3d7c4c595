"""What a run says while it works: log lines, and progress with the time left. Quiet until `start` is called."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

SECONDS_BETWEEN_LINES = 30.0  # of progress, where there is no terminal to draw a bar on

log = logging.getLogger("llmc")


class _Stderr(logging.Handler):
    """Writes to whatever sys.stderr is at that moment: a progress bar takes its place while it is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


@contextmanager
def start(verbose: bool = False) -> Iterator[None]:
    """Show the log on stderr while a command runs; ranks other than the first say nothing but warnings."""
    handler = _Stderr()
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.setLevel((logging.DEBUG if verbose else logging.INFO) if _speaks() else logging.WARNING)
    level = log.level
    log.setLevel(logging.DEBUG)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def attach_file(path: Path) -> ExitStack:
    """Append the log to a file from now on; closing the returned stack ends it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    log.addHandler(handler)
    stack = ExitStack()
    stack.callback(handler.close)
    stack.callback(log.removeHandler, handler)
    return stack


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[], None]]:
    """Yields what to call after each of `total` steps: a bar on a terminal, a line now and then elsewhere."""
    began = time.monotonic()
    if _speaks() and log.isEnabledFor(logging.INFO) and sys.stderr.isatty():
        with _bar(label, total) as advance:
            yield advance
    else:
        yield _lines(label, total, began)
    log.debug("%s: %d in %.1f s", label, total, time.monotonic() - began)


@contextmanager
def _bar(label: str, total: int) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total)
        yield lambda: bar.advance(task)


def _lines(label: str, total: int, began: float) -> Callable[[], None]:
    done, said = 0, began

    def advance() -> None:
        nonlocal done, said
        done += 1
        now = time.monotonic()
        if now - said >= SECONDS_BETWEEN_LINES and done < total:
            said = now
            log.info("%s: %d of %d, %s left", label, done, total, duration((now - began) / done * (total - done)))

    return advance


def duration(seconds: float) -> str:
    """`3:07`, or `2:03:07`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _speaks() -> bool:
    return os.environ.get("RANK", "0") == "0"
