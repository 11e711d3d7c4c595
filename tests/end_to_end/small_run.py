"""A whole run on a tiny random model: seconds, not minutes."""

from __future__ import annotations

import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import yaml

from llmc.models.base import adapters
from tests.processes import start
from tests.tiny_pipelines import TINY, save_samples


def small_config(folder: Path, samples: int = 1, family: str = "WanI2V", **changes: dict[str, Any] | None) -> Path:
    """A model, samples and a configuration in `folder`; `changes` are merged into its sections, None leaves one out."""
    save, _ = TINY[family]
    save(folder / "model")
    save_samples(folder / "samples", samples)
    kind = "i2v" if adapters()[family].needs_image else "t2v"
    size = {"name": kind, "path": str(folder / "samples"), "target_height": 32, "target_width": 32, "num_frames": 5,
            "guidance_scale": 2.0}  # fmt: skip
    config: dict[str, Any] = {
        "base": {"seed": 7, "run_dir": str(folder / "run"), "device": "cpu"},
        "model": {"type": family, "path": str(folder / "model")},
        "calib": {**size, "sample_steps": 2},
        "eval": {**size, "metrics": ["psnr", "ssim"]},
        "quant": {
            "video_gen": {
                "method": {"name": "SmoothQuant", "alpha": 0.5, "gate": False},
                "weight": {"bit": 8, "granularity": "per_channel"},
                "act": {"bit": 8, "granularity": "per_token"},
            }
        },
        "save": {"save_lightx2v": True, "save_path": str(folder / "export")},
    }
    for section, values in changes.items():
        config[section] = None if values is None else {**config.get(section, {}), **values}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def kill_once_a_block_is_finished(config: Path, run: Path) -> None:
    """Start the run, and end it as a crash would while it calibrates, or soon after."""
    process = start(["run", "--config", str(config)], config.with_suffix(".log"))
    wait_for(process, run, "calibration-*/transformer.blocks.0.safetensors")
    process.kill()
    process.join()
    assert not (run / "results.json").exists()


def wait_for(process: ForkServerProcess, folder: Path, file: str) -> None:
    """Until the process has written a file of that form."""
    last = time.monotonic() + 120
    while not list(folder.glob(file)):
        assert process.is_alive() and time.monotonic() < last
        time.sleep(0.001)
