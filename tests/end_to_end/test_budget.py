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


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, True], ids=["at once", "streamed"])
def test_a_budget_for_all_calls_gives_the_codes_of_none(streamed: bool, tmp_path: Path) -> None:
    one, *others = [
        exported(tmp_path / str(budget), max_calls=budget, streamed=streamed) for budget in (None, "auto", 18, 1000)
    ]
    assert all(same(one, other) for other in others)
