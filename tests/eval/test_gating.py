import random
from pathlib import Path

import pytest
from pydantic import ValidationError

from llmc.errors import LlmcError
from llmc.eval.gate_settings import Gate
from llmc.eval.gating import hold
from llmc.eval.results import Results, SampleResult, write_results


def results(psnr: dict[str, float], seeds: int = 2, samples: int = 8, order: int = 1, seed: int = 0) -> Results:
    """A run whose positions have such PSNR, give or take a decibel, on samples of different difficulty."""
    chance, found = random.Random(seed), []
    for number in range(seeds):
        for index in range(samples):
            figures = {p: {"psnr": mean + index + chance.gauss(0, 0.3)} for p, mean in psnr.items()}
            found.append(SampleResult(name="", prompt=f"sample {index}", seed=number, metrics=figures))
    means = {position: {"psnr": mean} for position, mean in psnr.items()}
    return Results(
        run="r", name="r", created="", device="cpu", recipe="RTN", metrics=means, samples=found[::order]
    )  # fmt: skip


def test_a_position_is_a_yardstick():
    gate = Gate(metric="psnr", no_worse_than="baseline")
    better = hold(gate, results({"fake_quant": 33.0, "baseline": 30.0}))
    assert better.verdict == "passed" and better.gain == pytest.approx(3.0, abs=0.5)
    assert "better than that of baseline" in better.sentence and "8 samples × 2 seeds" in better.sentence
    worse = hold(gate, results({"fake_quant": 29.0, "baseline": 30.0}))
    assert worse.verdict == "failed" and "it is worse" in worse.sentence
    assert hold(gate, results({"fake_quant": 30.0, "baseline": 30.0})).verdict == "undecided"


@pytest.mark.parametrize(("bound", "verdict"), [(25, "passed"), (33.5, "undecided"), (60.0, "failed")])
def test_a_figure_is_a_yardstick(bound, verdict):
    assert hold(Gate(metric="psnr", no_worse_than=bound), results({"fake_quant": 30.0})).verdict == verdict


def test_another_run_is_a_yardstick_in_whatever_order_its_samples_are(tmp_path: Path):
    other = tmp_path / "other"
    other.mkdir()
    write_results(other / "results.json", results({"fake_quant": 30.0}, order=-1, seed=5))
    gate = Gate(metric="psnr", no_worse_than=str(other))
    found = hold(gate, results({"fake_quant": 33.0}))
    assert found.verdict == "passed" and found.gain == pytest.approx(3.0, abs=0.5)
    # the difficulty of the samples is ten times what is between the runs: only pairs show that
    assert found.high - found.low < 1.5


def test_another_run_without_the_samples_leaves_it_undecided(tmp_path: Path):
    write_results(tmp_path / "results.json", results({"fake_quant": 30.0}, samples=7))
    found = hold(Gate(metric="psnr", no_worse_than=str(tmp_path)), results({"fake_quant": 33.0}))
    assert found.verdict == "undecided" and "'sample 7'" in found.sentence


def test_a_video_without_a_figure_fails():
    broken = results({"fake_quant": 33.0, "baseline": 30.0})
    broken.samples[3].metrics["fake_quant"]["psnr"] = None
    found = hold(Gate(metric="psnr", no_worse_than="baseline"), broken)
    assert found.verdict == "failed" and "'sample 3'" in found.sentence


def test_too_few_samples_are_undecided_and_said():
    found = hold(
        Gate(metric="psnr", no_worse_than="baseline"), results({"fake_quant": 33.0, "baseline": 3.0}, samples=5)
    )
    assert found.verdict == "undecided" and "fewer than 6" in found.sentence


def test_a_yardstick_that_there_is_not_is_refused():
    with pytest.raises(LlmcError, match="no_worse_than is fp16"):
        hold(Gate(metric="psnr", no_worse_than="fp16"), results({"fake_quant": 33.0}))
    with pytest.raises(LlmcError, match="metric is beauty"):
        hold(Gate(metric="beauty", no_worse_than=1), results({"fake_quant": 33.0}))


def test_what_is_wrong_with_a_gate_is_told_before_anything_is_judged():
    positions = ["fp8", "baseline", "fake_quant"]
    assert Gate(metric="psnr", no_worse_than="fp8").problems(["psnr"], positions, 6) == []
    assert Gate(metric="psnr", no_worse_than=30).problems(["psnr"], positions, 6) == []
    (problem,) = Gate(metric="vmaf", no_worse_than="fp8").problems(["psnr"], positions, 6)
    assert "vmaf, which is not measured" in problem
    (problem,) = Gate(metric="psnr", no_worse_than="fp9").problems(["psnr"], positions, 6)
    assert "fp8, baseline, fake_quant" in problem
    (problem,) = Gate(metric="psnr", no_worse_than="fp8").problems(["psnr"], positions, 5)
    assert "5 samples" in problem
    (problem,) = Gate(metric="psnr", no_worse_than="fp8").problems(["psnr"], ["fp8", "float"], 6)
    assert "eval_pos leaves out" in problem


@pytest.mark.parametrize("confidence", [0, 49, 100])
def test_a_confidence_that_means_nothing_is_refused(confidence):
    with pytest.raises(ValidationError, match="confidence"):
        Gate(metric="psnr", no_worse_than="fp8", confidence=confidence)
