"""Whole runs for other targets than LightX2V."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from llmc.__main__ import main
from tests.end_to_end.small_run import small_config


def run(config: Path) -> int:
    return main(["run", "--config", str(config)])


ALIKE = {  # another target beside ComfyUI: the acts with which both compute the same, its file, its names
    "lightx2v": ({"bit": 8}, "diffusion_pytorch_model", "{}.weight", "{}.weight_scale"),
    "diffusers": (None, "diffusers/transformer/diffusion_pytorch_model", "{}._weight_qdata", "{}._weight_scale"),
}


@pytest.mark.parametrize("other", ALIKE)
def test_one_run_writes_the_same_codes_for_targets_that_compute_alike(tmp_path: Path, other: str) -> None:
    act, file, codes, scale = ALIKE[other]
    method = {"name": "SmoothQuant", "alpha": 0.5, "gate": False}
    quant = {"video_gen": {"method": method, "weight": {"bit": 8}, "act": act}}
    save = {"save_lightx2v": False, f"save_{other}": True, "save_comfyui": True}
    assert run(small_config(tmp_path, eval=None, quant=quant, save=save)) == 0
    comfyui = load_file(tmp_path / "export" / "comfyui" / "model-transformer-int8.safetensors")
    tensors = load_file(tmp_path / "export" / f"{file}.safetensors")
    for layer, original in (("blocks.0.attn1.to_q", "blocks.0.self_attn.q"), ("blocks.1.ffn.net.2", "blocks.1.ffn.2")):
        assert tensors[codes.format(layer)].equal(comfyui[f"{original}.weight"])
        assert tensors[scale.format(layer)].equal(comfyui[f"{original}.weight_scale"])
    assert not any("affine_norm" in name for name in tensors)  # only what both can carry was smoothed
    layers = json.loads((tmp_path / "run" / "results.json").read_text())["layers"]
    assert {layer["name"] for layer in layers if layer["transforms"]} == {
        f"blocks.{i}.{name}" for i in (0, 1) for name in ("attn1.to_out.0", "attn2.to_q", "attn2.to_out.0")
    }


@pytest.mark.parametrize(("target", "subfolder"), [("comfyui", "comfyui"), ("diffusers", "diffusers"), ("mindie", "")])
def test_manifest_card_and_digests_come_with_every_target(tmp_path: Path, target: str, subfolder: str) -> None:
    assert run(small_config(tmp_path, eval=None, save={"save_lightx2v": False, f"save_{target}": True})) == 0
    out = tmp_path / "export" / subfolder
    manifest = json.loads((out / "llmc_manifest.json").read_text())
    assert manifest["target"] == target and len(manifest["layers"]["transformer"]) == 24
    files = {file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()}
    assert set(manifest["files"]) == files - {"llmc_manifest.json"}
    assert "## Run it" in (out / "README.md").read_text()
    assert len(json.loads((tmp_path / "run" / "weights.json").read_text())["transformer"]) == 24


@pytest.mark.parametrize("form", ["comfy_quant", "scaled_fp8"])
def test_a_calibrated_fp8_run_for_comfyui_is_judged_as_it_is_written(tmp_path: Path, form: str) -> None:
    grid = {"bit": "e4m3", "granularity": "per_tensor"}
    method = {"name": "SmoothQuant", "alpha": 0.5, "gate": False}
    quant = {"video_gen": {"method": method, "weight": grid, "act": {**grid, "static": True}}}
    save = {"save_lightx2v": False, "save_comfyui": True, "comfy_format": form}
    assert run(small_config(tmp_path, quant=quant, save=save)) == 0
    tensors = load_file(tmp_path / "export" / "comfyui" / "model-transformer-fp8_e4m3.safetensors")
    scales = [tensor for name, tensor in tensors.items() if name.endswith(("input_scale", "scale_input"))]
    assert len(scales) == 24 and all(scale > 0 for scale in scales)
    metrics = json.loads((tmp_path / "run" / "results.json").read_text())["metrics"]
    assert 0 < metrics["fake_quant"]["teacher_forced_error"] < 0.01
