"""Runs that are killed, or asked to end, at a share of what they compute, and run again."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.counting import FILE, LAST, SIGNAL
from tests.processes import start

COUNTING = ["--plugin", "tests.end_to_end.counting"]


@dataclass(frozen=True)
class Killed:
    """A run that was killed, and the one that went on after it; counts are of linears that were computed."""

    folder: Path
    whole: int
    killed: int
    resumed: int
    left: list[str]  # in the run folder, by the one that was killed
    scratch: list[str]  # in TMPDIR

    @property
    def repeated(self) -> float:
        """The share of a whole run that was done twice."""
        return (self.killed + self.resumed - self.whole) / self.whole


def killed_runs(
    config: Path, folder: Path, shares: Sequence[float], how: signal.Signals = signal.SIGKILL
) -> Iterator[Killed]:
    """One for each share, in a folder of its own; the run that nobody killed is in `folder`/whole."""
    whole = _counted(config, folder / "whole")
    for share in shares:
        own = folder / f"killed-{share}"
        killed = _counted(config, own, int(share * whole), how)
        left, scratch = _names(own / "run"), _names(own / "scratch")
        yield Killed(own, whole, killed, _counted(config, own), left, scratch)


def _counted(config: Path, folder: Path, last: int = -1, how: signal.Signals = signal.SIGKILL) -> int:
    """How many linears a run computes; it gets the signal when it begins number `last`."""
    (folder / "scratch").mkdir(parents=True, exist_ok=True)
    places = ["--set", f"base.run_dir={folder / 'run'}", "--set", f"save.save_path={folder / 'export'}"]
    environment = {
        FILE: str(folder / "count"), LAST: str(last), SIGNAL: str(int(how)), "TMPDIR": str(folder / "scratch"),
    }  # fmt: skip
    process = start(["run", "--config", str(config), *places, *COUNTING], folder / "output", environment)
    process.join()
    ended = -how if how == signal.SIGKILL else 128 + how
    wanted = 0 if last < 0 else ended
    assert process.exitcode == wanted, (folder / "output").read_text(encoding="utf-8")[-3000:]
    return int((folder / "count").read_text())


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
