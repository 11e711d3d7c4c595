"""Every recipe that `llmc quant` can pick runs on a tiny pipeline of its model, by that command."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from llmc.__main__ import main
from llmc.config.recipes import recipes_for
from llmc.models.base import adapters
from tests.tiny_pipelines import TINY, save_samples

SLICE = {("HunyuanVideo", "w8a8_timestep"), ("Flux", "w8a8_dynamic_m6"), ("SD3", "w8a8_static")}
WIDE = {"w4a4_mxfp4_dualscale"}  # its kernels need layers of 512 inputs, and tiny ones have fewer
STEPS = 4
KINDS = [(family, kind) for family in adapters() for kind in recipes_for(family) if kind not in WIDE]


@pytest.mark.parametrize(
    ("family", "kind"),
    [pytest.param(*one, marks=[] if one in SLICE else [pytest.mark.slow], id="-".join(one)) for one in KINDS],
)
def test_a_recipe_is_quantized_and_exported(family: str, kind: str, tmp_path: Path) -> None:
    save, sampling = TINY[family]
    save(tmp_path / "model")
    save_samples(tmp_path / "samples", 1)
    changes = {
        "base.run_dir": tmp_path / "run",
        "calib.path": tmp_path / "samples",
        "calib.sample_steps": STEPS,
        "calib.target_height": sampling.height,
        "calib.target_width": sampling.width,
    }
    if not adapters()[family].makes_images:
        changes["calib.num_frames"] = sampling.num_frames
    if kind == "w8a8_timestep":
        methods = yaml.safe_load(recipes_for(family)[kind].read_text(encoding="utf-8"))["quant"]["video_gen"]["method"]
        changes[f"quant.video_gen.method.{len(methods) - 1}.timestep_sep"] = STEPS // 2
    options = [option for key, value in changes.items() for option in ("--set", f"{key}={value}")]
    paths = ["--model_path", str(tmp_path / "model"), "--save_path", str(tmp_path / "export")]
    assert main(["quant", *paths, "--model_type", family, "--device", "cpu", "--quant_type", kind, *options]) == 0
    assert list((tmp_path / "export").rglob("quant_model_weight_*.safetensors"))
    assert list((tmp_path / "export").rglob("quant_model_description_*.json"))
