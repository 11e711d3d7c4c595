"""One run at a time in a folder, however the last one ended."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmc.errors import FolderInUse
from llmc.lock import LOCK, held

HOLDS = """
import sys
from pathlib import Path
from llmc.lock import held
with held(Path(sys.argv[1]), "some.key"):
    print("has it", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder until its input ends."""
    command = [sys.executable, "-c", HOLDS, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "has it\n"
        try:
            yield process
        finally:
            process.kill()


def test_the_second_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    with (
        holder(tmp_path / "run") as process,
        pytest.raises(FolderInUse) as refused,
        held(tmp_path / "run", "base.run_dir"),
    ):
        pytest.fail("both are in")
    said = str(refused.value)
    assert f"{tmp_path / 'run'} is in use by process {process.pid}, since 20" in said
    assert "from llmc.lock import held\n" in said and str(tmp_path / "run") in said, "the command"
    assert said.endswith("or name another folder (base.run_dir).")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_who_was_killed_holds_nothing(how: signal.Signals, tmp_path: Path) -> None:
    with holder(tmp_path / "run") as process:
        (tmp_path / "run" / ".123.partial.results.json").touch()
        (tmp_path / "run" / "results.json").touch()
        process.send_signal(how)
        process.wait()
        assert (tmp_path / "run" / LOCK).exists()
        with held(tmp_path / "run", "base.run_dir"):
            assert {path.name for path in (tmp_path / "run").iterdir()} == {LOCK, "results.json"}
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["results.json"]


def test_a_folder_that_nothing_was_left_in_goes_with_those_above_it(tmp_path: Path) -> None:
    with held(tmp_path / "above" / "run", "base.run_dir"):
        assert (tmp_path / "above" / "run" / LOCK).stat().st_size > 0
    assert list(tmp_path.iterdir()) == []
    with held(tmp_path / "above" / "run", "base.run_dir"):
        (tmp_path / "above" / "beside").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["above", "beside"]


def test_one_run_may_hold_a_folder_twice_and_its_other_ranks_do_not_ask(tmp_path: Path) -> None:
    with held(tmp_path, "base.run_dir"):
        with held(tmp_path, "save.save_path"), held(tmp_path, "base.run_dir", rank=1):
            pass
        assert (tmp_path / LOCK).exists()
    assert not (tmp_path / LOCK).exists()


def test_what_another_run_writes_in_a_folder_below_is_left_to_it(tmp_path: Path) -> None:
    below = tmp_path / "below"
    with holder(below):
        (below / ".99.partial.config.json").touch()
        with held(tmp_path, "save.save_path"):
            assert (below / ".99.partial.config.json").exists()
