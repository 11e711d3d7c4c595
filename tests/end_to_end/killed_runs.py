"""Runs that are killed at a given count of what they compute, and run again; one process imports everything for all.

python -m tests.end_to_end.killed_runs CONFIG FOLDER SHARE ...    prints a line of JSON for each share of a whole run
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from llmc.__main__ import main
from llmc.layers.linear import QuantLinear


@dataclass(frozen=True)
class Killed:
    """A run that was killed, and the one that went on after it; counts are of linears that were computed."""

    folder: str
    whole: int
    killed: int
    resumed: int
    left: list[str]  # in the run folder, by the one that was killed
    scratch: list[str]  # in TMPDIR

    @property
    def repeated(self) -> float:
        """The share of a whole run that was done twice."""
        return (self.killed + self.resumed - self.whole) / self.whole


def killed_runs(config: Path, folder: Path, shares: Sequence[float]) -> list[Killed]:
    """The same in a process of its own; the uninterrupted run is in `folder`/whole."""
    words = [sys.executable, "-m", "tests.end_to_end.killed_runs", str(config), str(folder), *map(str, shares)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-3000:]
    return [Killed(**json.loads(line)) for line in done.stdout.splitlines() if line.startswith("{")]


def _counted(config: Path, folder: Path, last: int = -1) -> int:
    """How many linears a run in a child process computes; it is killed when it begins number `last`."""
    child = os.fork()
    if child == 0:
        count = 0

        def note(module: nn.Module, arguments: Any) -> None:
            nonlocal count
            if not isinstance(module, QuantLinear):
                return
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            (folder / "count").write_text(str(count))

        folder.mkdir(exist_ok=True)
        (folder / "count").write_text("0")
        register_module_forward_pre_hook(note)
        places = ["--set", f"base.run_dir={folder / 'run'}", "--set", f"save.save_path={folder / 'export'}"]
        os._exit(main(["run", "--config", str(config), *places]))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == (0 if last < 0 else -signal.SIGKILL)
    return int((folder / "count").read_text())


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _main(config: Path, folder: Path, shares: Sequence[float]) -> None:
    tempfile.tempdir = str(folder / "scratch")
    (folder / "scratch").mkdir()
    whole = _counted(config, folder / "whole")
    for share in shares:
        own = folder / f"killed-{share}"
        killed = _counted(config, own, int(share * whole))
        left, scratch = _names(own / "run"), _names(folder / "scratch")
        print(json.dumps(asdict(Killed(str(own), whole, killed, _counted(config, own), left, scratch))), flush=True)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]), [float(share) for share in sys.argv[3:]])
