import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from llmc.atomic import (
    STAGE,
    atomic_file,
    atomic_path,
    remove_abandoned_scratch,
    scratch_folder,
    staged_folder,
)

KILLED = """
import os, signal, sys
from pathlib import Path
from llmc.atomic import staged_folder
with staged_folder(Path(sys.argv[1])) as stage:
    (stage / "half").write_bytes(b"x" * 1000)
    os.kill(os.getpid(), signal.SIGKILL)
"""


KILLED_WITH_SCRATCH = """
import os, signal
from llmc.atomic import scratch_folder
with scratch_folder("calls") as folder:
    (folder / "0.safetensors").write_bytes(b"x" * 1000)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "file") as file:
        file.write(b"new")
        assert not (tmp_path / "file").exists()
    assert (tmp_path / "file").read_bytes() == b"new"


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_file(tmp_path / "file") as file:
        file.write(b"new")
        raise RuntimeError
    assert names(tmp_path) == ["file"] and (tmp_path / "file").read_bytes() == b"old"


def test_a_path_to_write_under_keeps_the_suffix_that_libraries_go_by(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "clip.mp4") as partial:
        assert partial.suffix == ".mp4" and partial.parent == tmp_path
        partial.write_bytes(b"x")
    assert names(tmp_path) == ["clip.mp4"]


def test_the_files_of_a_folder_appear_together_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), staged_folder(tmp_path / "new") as stage:
        (stage / "a").touch()
        raise RuntimeError
    assert names(tmp_path) == []
    with staged_folder(tmp_path / "new") as stage:
        (stage / "a").touch()
        assert names(tmp_path / "new") == [stage.name]
    assert names(tmp_path / "new") == ["a"]


def test_what_a_killed_process_left_is_removed_by_the_next_and_what_still_writes_is_not(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    (abandoned,) = names(tmp_path)
    assert abandoned.startswith(STAGE)
    with staged_folder(tmp_path) as first, staged_folder(tmp_path) as second:
        assert names(tmp_path) == sorted([first.name, second.name])
    assert names(tmp_path) == []


def test_scratch_of_a_killed_process_is_removed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", KILLED_WITH_SCRATCH], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    (abandoned,) = names(tmp_path)
    (tmp_path / "llmc-calls-of-last-year").mkdir()
    with scratch_folder("video") as ours:
        remove_abandoned_scratch()
        assert names(tmp_path) == sorted([ours.name, "llmc-calls-of-last-year"]) and abandoned != ours.name
    assert names(tmp_path) == ["llmc-calls-of-last-year"]


def test_scratch_in_a_place_of_its_own_goes_with_the_next_one_there(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", KILLED_WITH_SCRATCH], env=environment, check=False)
    assert len(names(tmp_path)) == 1
    with scratch_folder("calls", tmp_path) as first, scratch_folder("calls", tmp_path) as second:
        assert names(tmp_path) == sorted([first.name, second.name])
    assert names(tmp_path) == []
