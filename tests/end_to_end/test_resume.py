"""A run that is killed goes on where it was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from safetensors.torch import load_file

from llmc.__main__ import main
from llmc.config.load import load_config
from llmc.steps.device import choose_device
from llmc.steps.folder import RunFolder
from llmc.steps.resume import calibration_journal, code_files
from tests.end_to_end.small_run import kill_once_a_block_is_finished, small_config

EXPORTED = "diffusion_pytorch_model.safetensors"
METHODS = ["SmoothQuant", {"name": "GPTQ", "target": "asymmetric"}]
QUANT = {
    "video_gen": {
        "method": METHODS,
        "weight": {"bit": 4, "granularity": "per_channel"},
        "act": {"bit": 8, "granularity": "per_token"},
    }
}


def gptq_config(folder: Path) -> Path:
    folder.mkdir()
    return small_config(folder, quant=QUANT, save={"save_lightx2v": False, "save_fake": True})


def test_a_run_that_was_killed_gives_the_same_as_one_that_was_not(tmp_path: Path) -> None:
    whole, killed = gptq_config(tmp_path / "whole"), gptq_config(tmp_path / "killed")
    assert main(["run", "--config", str(whole)]) == 0
    run = tmp_path / "killed" / "run"
    kill_once_a_block_is_finished(killed, run)
    assert main(["run", "--config", str(killed)]) == 0
    assert "of 2 blocks of transformer were finished before" in (run / "run.log").read_text()
    assert list(run.glob("calibration-*")) == []
    one, other = (load_file(next((tmp_path / name).glob(f"export/**/{EXPORTED}"))) for name in ("whole", "killed"))
    assert one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)
    tables = [(tmp_path / name / "run" / "layers.csv").read_text() for name in ("whole", "killed")]
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    ("change", "goes_on"),
    [("eval.metrics=[psnr]", True), ("save.save_path=elsewhere", True), ("calib.sample_steps=3", False)],
)
def test_only_what_finished_blocks_depend_on_makes_them_others(tmp_path: Path, change: str, goes_on: bool) -> None:
    path = gptq_config(tmp_path / "run")

    def journal(*changes: str) -> Path:
        config = load_config(path, list(changes))
        samples = config.calib.samples(config.model.adapter())
        folder = RunFolder(tmp_path, writes=True)
        return calibration_journal(config, samples, choose_device("cpu"), folder).folder

    assert (journal() == journal(change)) == goes_on
    sample = next((tmp_path / "run" / "samples").glob("*.png"))
    before = journal()
    os.utime(sample, (0, 0))
    assert journal() != before


def test_our_code_and_that_of_plug_ins_counts() -> None:
    names = {path.name for path in code_files()}
    assert {"gptq.py", "quantize.py", "integer.py", "run.py"} <= names
