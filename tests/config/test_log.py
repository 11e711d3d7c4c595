"""Log lines and progress."""

from pathlib import Path

import pytest

from llmc import log


def test_nothing_is_said_before_start(capsys: pytest.CaptureFixture[str]) -> None:
    log.log.info("quiet")
    assert capsys.readouterr().err == ""


def test_lines_go_to_stderr_and_to_the_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with log.start(), log.attach_file(tmp_path / "run" / "run.log"):
        log.log.info("said")
        log.log.debug("kept")
    log.log.info("too late")
    assert capsys.readouterr().err == "said\n"
    lines = (tmp_path / "run" / "run.log").read_text().splitlines()
    assert [line.rsplit(": ")[-1] for line in lines] == ["said", "kept"]


def test_ranks_after_the_first_are_silent(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with log.start():
        log.log.info("quiet")
    assert capsys.readouterr().err == ""


def test_durations_are_readable() -> None:
    assert [log.duration(seconds) for seconds in (7, 187, 7387)] == ["0:07", "3:07", "2:03:07"]


def test_sizes_are_readable_whatever_they_are() -> None:
    sizes = [log.byte_size(count) for count in (0, 999, 999_600, 123_456, 1_230_000_000, 4e15)]
    assert sizes == ["0 bytes", "999 bytes", "1 MB", "123 kB", "1.23 GB", "4000 TB"]
