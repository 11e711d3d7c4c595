"""The launch scripts: exit codes, folders, background runs. They find .venv made and never touch the network."""

import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.end_to_end.small_run import small_config

ROOT = Path(__file__).parents[2]
RUN = ROOT / "scripts" / "run_llmc.sh"


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken.yaml"
    path.write_text("model: 3\n")
    return path


@pytest.fixture(autouse=True)
def environment_is_made() -> None:
    """The tests may run in another environment than the scripts'; making theirs is not a test's business."""
    stamp = ROOT / ".venv" / "installed"
    if not stamp.is_file():
        pytest.skip("scripts/test.sh makes .venv")


def start(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", RUN, *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=60)


def seconds_of_children() -> float:
    """What finished processes of ours have computed: a machine that is busy with others changes nothing of it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_run_returns_its_exit_code_from_any_folder(broken: Path, tmp_path: Path) -> None:
    before = seconds_of_children()
    done = start("broken.yaml", folder=tmp_path)
    assert done.returncode == 2 and "model: it is 3; a section is needed" in done.stderr
    assert seconds_of_children() - before < 4


def test_options_reach_the_run(broken: Path, tmp_path: Path) -> None:
    done = start("--set", "calb.x=1", broken, "--json", folder=tmp_path)
    assert "--set calb.x=1: calb: unknown key" in done.stderr
    assert start("--set", folder=tmp_path).returncode == 2


def test_without_a_config_the_embedded_one_runs(tmp_path: Path) -> None:
    done = start("--set", "calib.sample_steps=0", folder=tmp_path)
    assert done.returncode == 2 and "calib.sample_steps: it is 0" in done.stderr


def test_a_detached_run_leaves_its_log_and_its_process_id(broken: Path, tmp_path: Path) -> None:
    done = start(broken, "--detach", folder=tmp_path)
    assert done.returncode == 0 and "kill" in done.stdout
    assert int((tmp_path / "broken.pid").read_text()) > 0
    deadline = time.monotonic() + 20
    while "model: it is 3" not in (tmp_path / "broken.log").read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "model: it is 3" in (tmp_path / "broken.log").read_text()


def test_an_environment_that_is_there_is_not_made_again() -> None:
    before = seconds_of_children()
    done = subprocess.run([sys.executable, ROOT / "scripts" / "environment.py"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert seconds_of_children() - before < 1


def test_under_torchrun_the_error_is_as_short(broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPROC", "2")
    done = start(broken, folder=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "ChildFailedError" not in done.stderr


@pytest.mark.parametrize("known", ({}, {"NODE_RANK": "1"}), ids=["neither", "NODE_RANK"])
def test_of_several_machines_each_must_say_which_it_is_and_where_the_first_is(
    known: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"NNODES": "2", **known}.items():
        monkeypatch.setenv(name, value)
    done = start(folder=tmp_path)
    assert done.returncode == 2 and f"NNODES=2 needs {'MASTER_ADDR' if known else 'a NODE_RANK'}" in done.stderr


@pytest.mark.slow
def test_two_machines_that_see_the_same_folders_work_together(tmp_path: Path) -> None:
    config = small_config(tmp_path, samples=2, eval=None)
    subprocess.run(["bash", RUN, config, "--set", f"save.save_path={tmp_path / 'alone'}"], cwd=tmp_path, check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nodes = os.environ | {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    machines = [
        subprocess.Popen(["bash", RUN, config], cwd=tmp_path, env=nodes | {"NODE_RANK": str(rank)}) for rank in (1, 0)
    ]
    assert [machine.wait(300) for machine in machines] == [0, 0]
    (alone,), (together,) = (list((tmp_path / name).glob("*.safetensors")) for name in ("alone", "export"))
    one, two = load_file(alone), load_file(together)
    assert one.keys() == two.keys() and all(tensor.equal(two[name]) for name, tensor in one.items())
    assert (tmp_path / "run" / "run.log").read_text().count("wrote") == 1  # rank 0 of all, not of each machine


def test_a_missing_python_is_named(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHON": "python9.9"}
    done = subprocess.run(["bash", RUN], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "python9.9 was not found" in done.stderr
