"""A run that is worse than its gate allows does all else, and exits with a code of its own."""

import json
from pathlib import Path

import pytest
import torch  # noqa: F401 (before the command line makes it lazy, for whatever test comes next)

from llmc.__main__ import GATE_NOT_PASSED, main
from llmc.eval.results import read_results
from tests.end_to_end.small_run import small_config

FOUR = {
    "method": "RTN",
    "weight": {"bit": 4, "granularity": "per_channel"},
    "act": {"bit": 4, "granularity": "per_token"},
}


def gated(folder: Path, **gate: object) -> Path:
    """A model rounded to 4 bits, six samples of it judged by one gate."""
    evaluation = {"gate": gate, "metrics": ["psnr"], "steps": 1}
    path = small_config(
        folder, samples=3, eval=evaluation, quant={"video_gen": FOUR}, calib=None, save={"save_lightx2v": False}
    )
    listed = folder / "samples" / "samples.json"
    samples = json.loads(listed.read_text())
    twice = [{**sample, "prompt": f"{sample['prompt']} {samples[0]['prompt']}"} for sample in samples]
    listed.write_text(json.dumps([*samples, *twice]))
    return path


def test_four_bits_are_worse_than_fp8_and_a_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = gated(tmp_path, metric="teacher_forced_error", no_worse_than="fp8")
    assert main(["run", "--config", str(path), "--json"]) == GATE_NOT_PASSED == 3
    printed = capsys.readouterr().out.splitlines()
    assert any(line.startswith("gate failed: teacher-forced error is ") and "fp8" in line for line in printed)
    assert json.loads(printed[-1])["gate"]["verdict"] == "failed"
    results = read_results(tmp_path / "run" / "results.json")
    errors = {p: results.metrics[p]["teacher_forced_error"] for p in ("fp8", "baseline", "fake_quant")}
    assert errors["fp8"] < errors["fake_quant"] == errors["baseline"]
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.slow
def test_a_gate_that_is_passed_ends_a_run_as_ever(tmp_path: Path) -> None:
    path = gated(tmp_path, metric="psnr", no_worse_than=1.0)
    assert main(["run", "--config", str(path)]) == 0
    assert read_results(tmp_path / "run" / "results.json").gate.verdict == "passed"


def test_a_gate_that_nothing_could_decide_is_refused_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = gated(tmp_path, metric="beauty", no_worse_than="fp9")
    assert main(["check", str(path), "--set", "eval.n_samples=5"]) == 2
    said = capsys.readouterr().err
    assert "beauty, which is not measured" in said and "no_worse_than is fp9" in said and "5 samples" in said
