"""A run that is killed goes on where it was."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llmc.compat.load import load_config
from llmc.eval.results import read_results
from llmc.ledger.folder import RunFolder
from llmc.ledger.resume import calibration_journal, code_files
from llmc.models.loaded import LoadedModel
from tests.end_to_end.killed_runs import killed_runs
from tests.end_to_end.small_run import small_config

GRIDS = {"weight": {"bit": 4, "granularity": "per_channel"}, "act": {"bit": 8, "granularity": "per_token"}}
METHODS: dict[str, dict[str, Any]] = {
    "GPTQ": {"method": ["SmoothQuant", {"name": "GPTQ", "target": "asymmetric"}]},
    "all blocks at once": {"method": ["SmoothQuant", {"name": "GPTQ", "propagate": "float"}]},
    "with attention": {"method": "SmoothQuant", "attention": {"bit": 8, "static": True}},
}
PHASES = {"recording": 0.02, "recording, later": 0.04, "calibration": 0.12, "judging": 0.75, "judging, later": 0.9}


def method_config(folder: Path, method: str, **changes: Any) -> Path:
    folder.mkdir()
    quant = {"video_gen": METHODS[method] | GRIDS}
    return small_config(folder, samples=2, quant=quant, save={"save_lightx2v": False, "save_fake": True}, **changes)


def outcome(folder: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """All that a run gives: the bytes of its export, and its figures."""
    files = [path for path in (folder / "export").rglob("*") if "transformer" in path.parts and path.is_file()]
    exported = {path.name: path.read_bytes() for path in files}
    results = read_results(folder / "run" / "results.json")
    judged = {"metrics", "blocks", "layers", "attentions", "coverage", "rejected", "warnings"}
    samples = {"samples": {"__all__": {"steps", "metrics", "per_frame"}}}
    return exported, results.model_dump(include=dict.fromkeys(judged, True) | samples)


def assert_goes_on(
    config: Path, folder: Path, moments: Sequence[float], how: signal.Signals = signal.SIGKILL, most: float = 0.15
) -> None:
    """Runs that are killed at these moments end as one that was not, and repeat less than so much of it."""
    exported, figures = {}, {}
    for run in killed_runs(config, folder, moments, how):
        if not figures:
            exported, figures = outcome(folder / "whole")
            assert exported
        assert outcome(run.folder) == (exported, figures), run
        assert run.repeated < most, run
        assert any(name.startswith("calibration-") for name in run.left) and run.scratch == []
        assert sorted(path.name for path in (run.folder / "run").iterdir()) == sorted(
            path.name for path in (folder / "whole" / "run").iterdir()
        ), "nothing is left that was kept to go on"
        assert list((run.folder / "scratch").iterdir()) == []


def test_a_run_that_was_killed_while_it_judged_goes_on_there(tmp_path: Path) -> None:
    assert_goes_on(method_config(tmp_path / "config", "GPTQ"), tmp_path, [PHASES["judging"]])


@pytest.mark.slow
def test_a_run_that_was_asked_to_end_at_any_time_goes_on_too(tmp_path: Path) -> None:
    assert_goes_on(method_config(tmp_path / "config", "GPTQ"), tmp_path, list(PHASES.values()), signal.SIGTERM)


@pytest.mark.slow
def test_a_lent_run_with_its_streams_in_files_that_was_killed_at_any_moment_gives_the_same(tmp_path: Path) -> None:
    config = method_config(tmp_path / "config", "GPTQ", base={"memory": "20kB", "resident": 0}, calib={"max_calls": 3})
    moments = random.Random(0).sample([moment / 100 for moment in range(2, 98)], 10)
    assert_goes_on(config, tmp_path, moments, most=0.25)  # one of so few samples is a sixth of the run


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, True], ids=["", "streamed"])
@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_was_killed_at_any_time_gives_the_same_as_one_that_was_not(
    method: str, streamed: bool, tmp_path: Path
) -> None:
    config = method_config(tmp_path / "config", method, calib={"streamed": streamed})
    assert_goes_on(config, tmp_path, list(PHASES.values()))


@pytest.mark.parametrize(
    ("change", "goes_on"),
    [("eval.metrics=[psnr]", True), ("save.save_path=elsewhere", True), ("calib.sample_steps=3", False)],
)
def test_only_what_finished_blocks_depend_on_makes_them_others(tmp_path: Path, change: str, goes_on: bool) -> None:
    path = method_config(tmp_path / "run", "GPTQ")

    def journal(*changes: str) -> Path:
        config = load_config(path, list(changes))
        model = LoadedModel(config.model.adapter())
        return calibration_journal(config, model, RunFolder(tmp_path, writes=True)).folder

    assert (journal() == journal(change)) == goes_on
    sample = next((tmp_path / "run" / "samples").glob("*.png"))
    before = journal()
    os.utime(sample, (0, 0))
    assert journal() != before


def test_our_code_and_that_of_plug_ins_counts() -> None:
    names = {path.name for path in code_files()}
    assert {"gptq.py", "quantize.py", "integer.py", "run.py"} <= names
