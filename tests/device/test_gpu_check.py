"""The script for a GPU that is lent runs through without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "scripts" / "gpu_check.sh"


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU it takes minutes, and is run by itself")
def test_without_a_gpu_everything_runs_on_small_shapes(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", SCRIPT, tmp_path], env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no GPU: shapes are small" in done.stdout and "WRONG" not in done.stdout
    (page,) = tmp_path.glob("*-gpu-cpu.md")
    text = page.read_text(encoding="utf-8")
    assert all(section in text for section in ("int8 1 x 16", "nvfp4 as on the CPU", "block, fp8_e4m3 real", "GPTQ"))
