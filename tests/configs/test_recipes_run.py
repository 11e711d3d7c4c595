"""Every recipe that ships runs as it is, on a tiny pipeline of its family: record, calibrate, export, judge."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from llmc.__main__ import main
from llmc.models.base import adapters
from tests.tiny_pipelines import TINY, save_samples

BESIDE = {"text_encoder_path": "mt5-xxl"}  # what a tiny pipeline puts beside its folder
CONFIGS = Path(__file__).parents[2] / "configs/quantization/video_gen"
RECIPES = {
    path: yaml.safe_load(path.read_text())["model"]["type"]
    for path in sorted(CONFIGS.rglob("*.yaml"))
    if "tiny" not in path.parent.name
}
# one recipe of each family in the default suite, with another strategy each time
SLICE = {
    "wan_t2v/few_step_w_a", "wan_i2v/gptq_w4a16", "wan_flf2v/smoothquant_w_a", "wan_vace/rtn_w_a_fp8",
    "wan22_t2v/lora_merged_w_a", "wan22_i2v/full_stack_w4a8", "wan22_ti2v/smoothquant_w_a",
    "hunyuan_t2v/smoothquant_w_a_static", "flux/full_stack_w4a4", "sd3/smoothquant_w_a_fp8",
    "opensora_plan/smoothquant_w_a_static_29x480p",
}  # fmt: skip


def cases() -> list[object]:
    names = {path: f"{path.parent.name}/{path.stem}" for path in RECIPES}
    assert set(names.values()) >= SLICE
    return [
        pytest.param(path, family, id=names[path], marks=[] if names[path] in SLICE else [pytest.mark.slow])
        for path, family in RECIPES.items()
    ]


@pytest.mark.parametrize(("path", "family"), cases())
def test_a_recipe_runs_on_a_tiny_pipeline(
    path: Path, family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save, sampling = TINY[family]
    save(tmp_path / "model")
    save_samples(tmp_path / "samples", 1)
    written = yaml.safe_load(path.read_text())
    few = "denoising_step_list" in written["calib"]
    changes = {
        "base.run_dir": tmp_path / "run",
        "base.device": "cpu",
        "model.path": tmp_path / "model",
        "save.save_path": tmp_path / "export",
        "eval.metrics": "[psnr]",
        **({} if few else {"calib.sample_steps": 4}),
    }
    size = {"target_height": sampling.height, "target_width": sampling.width}
    if not adapters()[family].makes_images:
        size["num_frames"] = sampling.num_frames
    for section in ("calib", "eval"):
        changes |= {f"{section}.{key}": value for key, value in {"path": tmp_path / "samples", **size}.items()}
    for grid in ("weight", "act"):
        if written["quant"]["video_gen"].get(grid, {}).get("group_size"):
            changes[f"quant.video_gen.{grid}.group_size"] = 16
    if "lora" in written["model"]:
        changes["model.lora.0.path"] = save_lora(tmp_path / "model", tmp_path / "lora.safetensors")
    changes |= {f"model.{key}": tmp_path / place for key, place in BESIDE.items() if key in written["model"]}
    changes["eval.output_video_path"] = tmp_path / "videos"
    options = [option for key, value in changes.items() for option in ("--set", f"{key}={value}")]
    assert main(["run", "--config", str(path), "--json", *options]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 < summary["metrics"]["fake_quant"]["teacher_forced_error"] < 0.05
    assert list(Path(summary["checkpoint"]).rglob("*.safetensors"))


def save_lora(model: Path, file: Path) -> Path:
    """A LoRA of rank 2 for every self-attention query."""
    tensors = {}
    for name, weight in load_file(model / "transformer" / "diffusion_pytorch_model.safetensors").items():
        if name.endswith("attn1.to_q.weight"):
            module = f"transformer.{name.removesuffix('.weight')}"
            tensors[f"{module}.lora_A.weight"] = torch.full((2, weight.shape[1]), 0.01)
            tensors[f"{module}.lora_B.weight"] = torch.full((weight.shape[0], 2), 0.01)
    save_file(tensors, file)
    return file
