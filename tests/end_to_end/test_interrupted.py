"""A run that is asked to end, that finds another in its folder, or that gets no memory: what it says and leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmc.__main__ import main
from llmc.lock import LOCK
from tests.end_to_end.small_run import small_config, wait_for
from tests.processes import Ended, run, start

RECORDED = "calibration-*/recorded-*/sample.0.safetensors"


def test_a_second_run_is_refused_and_the_first_ends_when_it_is_asked_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, output = small_config(tmp_path, samples=4, calib={"sample_steps": 40}), tmp_path / "output"
    folder, scratch = tmp_path / "run", tmp_path / "scratch"
    scratch.mkdir()
    process = start(["run", "--config", str(config)], output, {"TMPDIR": str(scratch)})
    wait_for(process, folder, RECORDED)
    for place, key in ((folder, "base.run_dir"), (tmp_path / "export", "save.path")):
        elsewhere = [] if key == "base.run_dir" else ["--set", f"base.run_dir={tmp_path / 'other'}"]
        assert main(["run", "--config", str(config), *elsewhere]) == 2
        said = capsys.readouterr().err
        assert f"{place} is in use by process {process.pid}, since " in said and f"another folder ({key})" in said
    process.terminate()
    process.join()
    said = output.read_text(encoding="utf-8")
    assert process.exitcode == 128 + signal.SIGTERM, said
    assert "interrupted by SIGTERM\n" in said and f"What was finished is kept in {folder}" in said
    assert "Run it again with: " in said and "Traceback" not in said
    assert list(scratch.iterdir()) == [] and not (tmp_path / "export").exists() and not (tmp_path / "other").exists()
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith("calibration-")) == [
        "config.json", "run.log", "versions.json",
    ]  # fmt: skip


@pytest.mark.slow
def test_torchrun_passes_the_signal_on_and_both_ranks_go_on_later(tmp_path: Path) -> None:
    config, folder, scratch = (
        small_config(tmp_path, samples=4, calib={"sample_steps": 10}),
        tmp_path / "run",
        tmp_path / "scratch",
    )
    scratch.mkdir()
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "llmc"]
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *launch, "run", "--config", str(config)],
            stdout=output, stderr=output, env={**os.environ, "TMPDIR": str(scratch)},
        )  # fmt: skip
        last = time.monotonic() + 300
        for sample, rank in enumerate(("0of2", "1of2")):
            while not list(folder.glob(f"calibration-*/recorded-{rank}/sample.{sample}.safetensors")):
                assert process.poll() is None and time.monotonic() < last
                time.sleep(0.01)
        ranks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(signal.SIGTERM)
        process.wait()
    said = (tmp_path / "output").read_text(encoding="utf-8")
    assert said.count("interrupted by SIGTERM\n") == 1 and "the torchrun command that started it" in said, said
    assert len(ranks) >= 2 and not [rank for rank in ranks if Path(f"/proc/{rank}").exists()]
    assert not (folder / LOCK).exists() and list(scratch.glob("llmc-*")) == []
    both: list[Ended] = run(["run", "--config", str(config)], ranks=2)
    assert [rank.code for rank in both] == [0, 0], both
    assert "calibration samples were recorded before" in (folder / "run.log").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("size", "said"),
    [("calib", "recording the calibration videos: "), ("eval", "making the float videos: ")],
)
def test_a_run_that_gets_no_memory_says_at_what_how_much_and_which_setting_takes_less(
    size: str, said: str, tmp_path: Path
) -> None:
    config, output = (
        small_config(tmp_path, **{size: {"target_height": 1024, "target_width": 1024}}),
        tmp_path / "output",
    )
    process = start(["run", "--config", str(config), "--plugin", "tests.end_to_end.little_memory"], output)
    process.join()
    told = output.read_text(encoding="utf-8")
    assert process.exitcode == 2 and "Traceback" not in told, told
    assert said + "the memory of the host does not suffice for " in told and " MB more.\n" in told
    assert f"{size}.target_height, target_width, num_frames" in told
