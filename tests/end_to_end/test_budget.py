"""A whole run that looks at a few calls of its calibration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from llmc.__main__ import main
from tests.end_to_end.small_run import small_config

QUANT = {"video_gen": {"method": "GPTQ", "weight": {"bit": 4, "granularity": "per_channel"}, "act": {"bit": 8}}}


def exported(folder: Path, **calib: Any) -> dict[str, Any]:
    folder.mkdir()
    save = {"save_lightx2v": False, "save_fake": True}
    config = small_config(folder, samples=3, eval=None, quant=QUANT, save=save, calib={"sample_steps": 3, **calib})
    assert main(["run", "--config", str(config)]) == 0
    (file,) = (folder / "export").rglob("transformer/*.safetensors")
    return load_file(file)


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def test_a_run_looks_at_the_calls_that_its_budget_chooses_and_says_which(tmp_path: Path) -> None:
    few = exported(tmp_path / "few", max_calls=4)
    coverage = json.loads((tmp_path / "few" / "run" / "results.json").read_text())["coverage"]
    assert [(row["sample"], row["steps"], row["calls"], row["of"]) for row in coverage] == [
        (0, "0,2", 2, 6), (1, "0", 1, 6), (2, "1", 1, 6)
    ]  # fmt: skip
    log = (tmp_path / "few" / "run" / "run.log").read_text()
    assert "of transformer 4 of 18 calls are observed" in log and "the float run makes 11 of 18 calls" in log
    assert "transformer saw sample 0: steps 0,2, 2 of 6 calls" in log
    assert "<td>2 of 6</td>" in (tmp_path / "few" / "run" / "report.html").read_text()
    assert not same(few, exported(tmp_path / "all"))


def test_a_judgement_of_a_few_calls_tells_their_steps_and_needs_no_videos_of_the_baseline(tmp_path: Path) -> None:
    judged = {"max_calls": 3, "baseline_videos": False, "steps": 4}
    assert main(["run", "--config", str(small_config(tmp_path, samples=2, save=None, eval=judged))]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    steps = [sample["steps"]["fake_quant"] for sample in results["samples"]]
    assert [[error is not None for error in errors] for errors in steps] == [[True, False, True], [False, True]]
    assert results["metrics"]["baseline"].keys() == {"teacher_forced_error"}
    assert (
        0 < results["metrics"]["fake_quant"]["teacher_forced_error"] < 0.01 < results["metrics"]["fake_quant"]["psnr"]
    )
    assert not (tmp_path / "run" / "videos" / "baseline").exists() and (tmp_path / "run" / "report.html").exists()
    # two videos of four steps and two branches, in float and quantized; then three calls in two positions and in float
    assert results["phases"]["judge"]["forwards"] == 2 * 2 * 4 * 2 + 3 * 3


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, True], ids=["at once", "streamed"])
def test_a_budget_for_all_calls_gives_the_codes_of_none(streamed: bool, tmp_path: Path) -> None:
    one, *others = [
        exported(tmp_path / str(budget), max_calls=budget, streamed=streamed) for budget in (None, "auto", 18, 1000)
    ]
    assert all(same(one, other) for other in others)
