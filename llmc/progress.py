"""How far a piece of work is, while it works: a bar on a terminal, a line now and then elsewhere; what is at work, the
time left, and the most memory so far. Quiet where the log is."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from llmc.log import byte_size, duration, log, speaks
from llmc.memory import device_peak, held_memory

SECONDS_BETWEEN_LINES = 15.0  # where there is no terminal to draw a bar on
SECONDS_BETWEEN_LOOKS = 0.2  # at the memory that is held


@dataclass
class Progress:
    """Counts what is done of `total` units, and shows it."""

    label: str
    total: float
    unit: str = ""
    done: float = 0.0
    before: float = 0.0  # by a run that was cut off
    at: str = ""  # what is at work
    peak: int = 0  # bytes of the host, as far as it was looked at
    began: float = field(default_factory=time.monotonic)
    show: Callable[[Progress], None] = lambda shown: None

    def __call__(self, by: float = 1.0, at: str = "") -> None:
        """So much more is done."""
        self.reach(self.done + by, at)

    def reach(self, done: float, at: str = "") -> None:
        """So much is done in all."""
        self.done, self.at = done, at
        self.show(self)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look at the memory meanwhile, and show that work goes on where a step of it takes long."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(SECONDS_BETWEEN_LOOKS):
                self.peak = max(self.peak, held_memory())
                self.show(self)

        self.peak = held_memory()
        watcher = threading.Thread(target=watch, name="llmc-progress", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

    def go_on(self, done: float) -> None:
        """Work begins that so much comes before, of which a run that was cut off did what this one did not."""
        self.before += done - self.done
        self.done = done

    @property
    def left(self) -> float:
        """Seconds, if all goes on as it went."""
        pace = (time.monotonic() - self.began) / max(self.done - self.before, 1e-9)
        return pace * max(0.0, self.total - self.done)

    @property
    def memory(self) -> str:
        """The most so far, in words."""
        on_device = device_peak()
        beside = "" if on_device is None else f", {byte_size(on_device)} of the device"
        return f"peak {byte_size(self.peak)}{beside}"


@contextmanager
def progress(label: str, total: float, unit: str = "") -> Iterator[Progress]:
    """Yields what to call as work is done."""
    shown = Progress(label, total, unit)
    if not (speaks() and log.isEnabledFor(logging.INFO)):
        yield shown
        return
    with _bar(shown) if sys.stderr.isatty() else _lines(shown), shown.watched():
        yield shown
    log.debug("%s: %d in %.1f s, %s", label, total, time.monotonic() - shown.began, shown.memory)


@contextmanager
def _bar(shown: Progress) -> Iterator[None]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[at]}"),
    )  # fmt: skip
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(shown.label, total=shown.total, unit=shown.unit, at="")

        def show(shown: Progress) -> None:
            bar.update(task, completed=shown.done, at=_joined(shown.at, shown.memory))

        shown.show = show
        yield


@contextmanager
def _lines(shown: Progress) -> Iterator[None]:
    said = shown.began

    def show(shown: Progress) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= SECONDS_BETWEEN_LINES and 0 < shown.done < shown.total:
            said = now
            count = f"{int(shown.done)} of {int(shown.total)} {shown.unit}".rstrip()
            about = _joined(shown.at, shown.memory)
            log.info("%s: %s, %s left (%s)", shown.label, count, duration(shown.left), about)

    shown.show = show
    yield


def _joined(*words: str) -> str:
    return ", ".join(filter(None, words))
