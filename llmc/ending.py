"""How a command ends: what is said on stderr, and the exit code. Errors of the program itself keep their traceback."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from llmc import memory
from llmc.errors import LlmcError
from llmc.interruption import Interrupted, raised_by_signals
from llmc.lock import command
from llmc.log import shortened, visible
from llmc.pipe import is_closed

MOST_SAID = 15_000  # characters of an error: about two hundred lines
LESS_MEMORY = "smaller videos, fewer samples, or other programs ended (--debug shows where)"


def exit_code(work: Callable[[], int | None], debug: bool = False) -> int:
    """Do the work; its code, or 0; 2, something that the user can mend; 130 or 143, interrupted by SIGINT or SIGTERM.
    With `debug` the traceback is shown too."""
    try:
        with raised_by_signals(), memory.needed_for("the command was at work", LESS_MEMORY):
            return work() or 0
    except LlmcError as error:
        if debug:
            raise
        if speaks():
            print(visible(shortened(f"error: {error}", MOST_SAID)), file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a folder that may not be written: of the machine, not of the program
        if debug or (isinstance(error, BrokenPipeError) and (is_closed(sys.stdout) or is_closed(sys.stderr))):
            raise
        what_to_do = "make room or give access, or name another place (--debug shows where)"
        print(visible(f"error: {error}; {what_to_do}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        _end_children()
        if debug:
            traceback.print_exc()
        if speaks():
            print(_farewell(interrupt), file=sys.stderr)
        return interrupt.exit_code if isinstance(interrupt, Interrupted) else 128 + signal.SIGINT


def speaks() -> bool:
    """Under torchrun only the first rank does."""
    return os.environ.get("RANK", "0") == "0"


def _end_children() -> None:
    """Those that were interrupted before anybody had hold of them; where the system does not list them, none."""
    for listed in Path("/proc/self/task").glob("*/children"):
        for child in map(int, listed.read_text(encoding="ascii").split()):
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


def _farewell(interrupt: KeyboardInterrupt) -> str:
    """What ended it, what was kept (the notes of those who know), and how to go on."""
    by = f" by {interrupt}" if isinstance(interrupt, Interrupted) else ""
    again = "the torchrun command that started it" if "TORCHELASTIC_RUN_ID" in os.environ else command()
    notes = [*getattr(interrupt, "__notes__", ["Nothing half-written is left."]), f"Run it again with: {again}"]
    return "\n  ".join([f"interrupted{by}", *notes])
