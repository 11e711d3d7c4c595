"""The recipes of FLUX.1, SD3 and HunyuanVideo for ComfyUI and diffusers run as they are, on a tiny pipeline: record,
calibrate, export, judge; and what is written passes `llmc verify`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from llmc.__main__ import main
from llmc.models.base import adapters
from llmc.verify.run import verify
from tests.tiny_pipelines import TINY, save_samples

CONFIGS = Path(__file__).parents[2] / "configs/quantization/video_gen"
RECIPES = [
    path
    for family in ("flux", "sd3", "hunyuan_t2v")
    for path in sorted((CONFIGS / family).glob("*.yaml"))
    if path.stem.startswith(("comfyui_", "diffusers_"))
]
SLICE = {"flux/comfyui_fp8", "sd3/diffusers_int8", "hunyuan_t2v/comfyui_int8"}  # of the default suite


def cases() -> list[object]:
    names = {path: f"{path.parent.name}/{path.stem}" for path in RECIPES}
    assert set(names.values()) >= SLICE and len(names) == 12
    return [
        pytest.param(path, id=name, marks=[] if name in SLICE else [pytest.mark.slow]) for path, name in names.items()
    ]


@pytest.mark.parametrize("path", cases())
def test_a_recipe_runs_on_a_tiny_pipeline(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = yaml.safe_load(path.read_text())
    family = written["model"]["type"]
    save, sampling = TINY[family]
    save(tmp_path / "model")
    save_samples(tmp_path / "samples", 1)
    changes = {
        "base.run_dir": tmp_path / "run", "base.device": "cpu", "model.path": tmp_path / "model",
        "save.save_path": tmp_path / "export", "calib.sample_steps": 2, "eval.metrics": "[psnr]",
    }  # fmt: skip
    for section in ("calib", "eval"):
        size = {"target_height": sampling.height, "target_width": sampling.width, "path": tmp_path / "samples"}
        if not adapters()[family].makes_images:
            size["num_frames"] = sampling.num_frames
        changes |= {f"{section}.{key}": value for key, value in size.items()}
    options = [option for key, value in changes.items() for option in ("--set", f"{key}={value}")]
    assert main(["run", "--config", str(path), "--json", *options]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 < summary["metrics"]["fake_quant"]["teacher_forced_error"] < 0.01
    report = verify(Path(summary["checkpoint"]), against=tmp_path / "run")
    assert {verdict.status for verdict in report.verdicts} == {"pass"}
