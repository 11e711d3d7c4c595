"""Two gloo ranks under torchrun give what one process gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.end_to_end.small_run import kill_once_a_block_is_finished, small_config


def run_llmc(config: Path, folder: Path, ranks: int) -> dict[str, object]:
    launch = [] if ranks == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    command = [sys.executable, *launch, "-m", "llmc", "run", "--config", str(config), "--json"]
    command += ["--set", f"base.run_dir={folder / 'run'}", "--set", f"save.save_path={folder / 'export'}"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    summary: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return summary


def test_two_ranks_share_the_samples_and_agree_with_one(tmp_path: Path) -> None:
    summaries, tensors = [], []
    config = small_config(tmp_path, samples=3)
    for ranks in (1, 2):
        summaries.append(run_llmc(config, tmp_path / str(ranks), ranks))
        tensors.append(load_file(Path(str(summaries[-1]["checkpoint"])) / "diffusion_pytorch_model.safetensors"))
    assert tensors[0].keys() == tensors[1].keys()
    different = [name for name in tensors[0] if not tensors[0][name].equal(tensors[1][name])]
    # the largest magnitudes are the same whoever saw them, so that fixed-alpha smoothing gives the same bytes
    assert different == []
    for one, two in zip(*(summary["metrics"]["fake_quant"].values() for summary in summaries), strict=True):  # type: ignore[index]
        assert one == pytest.approx(two, rel=1e-6)


def test_two_ranks_go_on_where_one_was_killed(tmp_path: Path) -> None:
    tensors = []
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        config = small_config(folder, samples=2, eval=None)
        if ranks == 2:
            kill_once_a_block_is_finished(config, folder / "run")
        summary = run_llmc(config, folder, ranks)
        tensors.append(load_file(Path(str(summary["checkpoint"])) / "diffusion_pytorch_model.safetensors"))
    assert "blocks of transformer were finished before" in (tmp_path / "2" / "run" / "run.log").read_text()
    assert all(tensors[0][name].equal(tensors[1][name]) for name in tensors[0])
