"""How far work is."""

from __future__ import annotations

import re
import time

import pytest

from llmc import progress
from llmc.log import start


def test_without_a_terminal_it_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LOOKS", 100.0)
    with start(), progress.progress("float videos", 2, "forwards") as shown:
        for block in range(4):
            shown(0.5, f"step 0, blocks.{block % 2}")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    wanted = r"float videos: (0|1|1) of 2 forwards, 0:00 left \(step 0, blocks\.\d, peak \d.* [kMG]?B\)"
    assert all(re.fullmatch(wanted, line) for line in lines), lines


def test_it_says_nothing_before_the_log_is_started(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with progress.progress("blocks", 2) as shown:
        shown()
    assert capsys.readouterr().err == ""


def test_a_step_that_takes_long_is_told_meanwhile_and_the_memory_that_it_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LOOKS", 0.001)
    with start(), progress.progress("blocks", 2) as shown:
        shown(1, "blocks.0")
        before, taken = shown.peak, bytearray(b"x") * 50_000_000
        last = time.monotonic() + 60
        while shown.peak < before + len(taken) / 2:
            assert time.monotonic() < last
            time.sleep(0.001)
    assert capsys.readouterr().err.count("blocks: 1 of 2") > 1


def test_what_is_left_is_told_from_what_is_done() -> None:
    shown = progress.Progress("blocks", 8)
    shown.began -= 10
    shown.reach(2)
    assert shown.left == pytest.approx(30, rel=0.1)
    shown.go_on(4)
    assert shown.left == pytest.approx(20, rel=0.1), "what was done before took no time now"
