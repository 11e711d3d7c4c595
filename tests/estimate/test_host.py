"""What an estimate says of the host against what a run on it measures, of networks that take more than libraries do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.large import write_config
from benchmarks.large_model import save_large_model
from llmc.compat.load import load_config
from llmc.estimate.facts import facts_of
from llmc.estimate.machine import machine_for
from llmc.estimate.stages import peaks
from llmc.estimate.verdict import judge_fit
from tests.end_to_end.small_run import small_config

ROOT = Path(__file__).parents[2]
# pages of the C library's heap that were freed long ago are no part of what a run holds
PAGES = {"MALLOC_MMAP_THRESHOLD_": str(1 << 17), "OMP_NUM_THREADS": "1"}


def measured(config: Path) -> int:
    """The peak of a run of its own."""
    command = [sys.executable, "-m", "llmc", "run", "--config", str(config)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env={**os.environ, **PAGES})
    run = yaml.safe_load(config.read_text(encoding="utf-8"))["base"]["run_dir"]
    phases: dict[str, Any] = json.loads((Path(run) / "results.json").read_text(encoding="utf-8"))["phases"]
    return max(phase["host_bytes"] for name, phase in phases.items() if name != "report")


def estimated(config: Path) -> int:
    loaded = load_config(config)
    return peaks(judge_fit(facts_of(loaded), machine_for("cpu")).stages)[1]


def test_a_small_run_takes_little_more_than_libraries_do(tmp_path: Path) -> None:
    config = small_config(tmp_path, eval=None)
    assert estimated(config) == pytest.approx(measured(config), rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["rtn", "gptq"])
def test_a_large_run_takes_what_was_estimated(recipe: str, tmp_path: Path) -> None:
    save_large_model(tmp_path / "model", dim=1024, ffn=4096, blocks=2)
    config = write_config(tmp_path, recipe)
    said, found = estimated(config), measured(config)
    print(f"{recipe}: {said / 1e6:.0f} MB estimated, {found / 1e6:.0f} MB measured")
    assert said == pytest.approx(found, rel=0.15)
