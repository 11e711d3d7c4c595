"""Signals that end a command, and what it says then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmc.interruption import Interrupted, raised_by_signals

WORKS = """
import subprocess, sys, time
from pathlib import Path
from llmc.atomic import scratch_folder
from llmc.ending import exit_code
def work():
    with scratch_folder("calls") as folder:
        print(folder, flush=True)
        subprocess.run([sys.executable, "-c", "import time; time.sleep(60)"])
sys.exit(exit_code(work))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_interrupted_cleans_up_ends_its_children_and_says_how_to_go_on(
    number: signal.Signals, code: int
) -> None:
    command = [sys.executable, "-c", WORKS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        scratch = Path(process.stdout.readline().strip())
        assert scratch.is_dir()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        last = time.monotonic() + 20
        while not (started := children.read_text().split()) and time.monotonic() < last:
            time.sleep(0.01)
        process.send_signal(number)
        said = process.stderr.read()
        assert process.wait() == code
    assert said.startswith(f"interrupted by {number.name}\n") and "Run it again with: " in said
    assert "Traceback" not in said
    assert not scratch.exists()
    assert [pid for pid in started if Path(f"/proc/{pid}").exists()] == []


def test_further_signals_do_not_disturb_what_the_first_one_began() -> None:
    ended = []
    with pytest.raises(Interrupted) as interrupt, raised_by_signals():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            ended.append("cleaned up")
    assert ended == ["cleaned up"] and interrupt.value.exit_code == 143


def test_who_does_not_listen_to_ctrl_c_does_not_begin_to() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with raised_by_signals():
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
