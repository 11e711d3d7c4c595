"""A run that quantizes the encoders too, from diffusers' folder and from weights of Wan's release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llmc.__main__ import main
from llmc.convert.encoders import to_release
from llmc.convert.writer import write_checkpoint
from llmc.export.part import kept
from tests.end_to_end.small_run import small_config

GRIDS = {"weight": {"bit": 8}, "act": {"bit": 8}}
ENCODERS: dict[str, Any] = {
    "text_encoder": {"method": ["SmoothQuant", "GPTQ"], **GRIDS},
    "image_encoder": {"method": {"name": "SmoothQuant", "gate": False}, **GRIDS},
}
T5 = "int8/models_t5_umt5-xxl-enc-int8.pth"
CLIP = "int8/models_clip_open-clip-xlm-roberta-large-vit-huge-14-int8.pth"


def test_a_run_judges_and_exports_the_encoders_with_the_network(tmp_path: Path) -> None:
    config = small_config(tmp_path, quant=ENCODERS, save={"native_names": True, "save_fake": True})
    assert main(["run", "--config", str(config)]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    for position in ("baseline", "fake_quant"):
        errors = results["encoders"][position]
        assert errors.keys() == {"text_encoder", "image_encoder"}
        assert all(0 < error < 0.0025 for error in errors.values())
    layers = {layer["name"]: layer for layer in results["layers"]}
    assert len(layers) == 24 + 14 + 18 and all(layer["error"] is not None for layer in layers.values())
    assert layers["text_encoder.encoder.block.0.layer.0.SelfAttention.q"]["method"] == "SmoothQuant + GPTQ"
    assert "folded into" in layers["image_encoder.encoder.layers.0.self_attn.q_proj"]["transforms"]
    assert [block["name"] for block in results["blocks"]["fake_quant"]] == ["blocks.0", "blocks.1"]
    assert "<td>text_encoder</td>" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    runtime = json.loads((tmp_path / "export" / "lightx2v_int8-vllm.json").read_text())
    assert runtime["t5_quantized"] and Path(runtime["t5_quantized_ckpt"]) == (tmp_path / "export" / T5).resolve()
    assert runtime["clip_quant_scheme"] == "int8-vllm" and Path(runtime["clip_quantized_ckpt"]).is_file()
    assert runtime["dit_quantized_ckpt"] == str((tmp_path / "export").resolve())
    for name in ("transformer", "text_encoder", "image_encoder"):
        (file,) = (tmp_path / "export" / "fake_quant" / name).glob("*.safetensors")
        ours, theirs = load_file(file), load_file(next((tmp_path / "model" / name).glob("*.safetensors")))
        assert ours.keys() == theirs.keys()
        assert any(not torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


def test_the_float_weights_of_the_release_give_the_same_bytes(tmp_path: Path) -> None:
    config = small_config(tmp_path, quant=ENCODERS, eval=None)
    assert main(["run", "--config", str(config)]) == 0
    first = {name: (tmp_path / "export" / name).read_bytes() for name in (T5, CLIP)}
    given = []
    for part, class_name in (("text_encoder", "UMT5EncoderModel"), ("image_encoder", "CLIPVisionModel")):
        file = tmp_path / "model" / part / "model.safetensors"
        tensors = to_release(class_name, {name: kept(tensor) for name, tensor in load_file(file).items()})
        (path,) = write_checkpoint(tmp_path / "release", tensors, "single", stem=part, suffix=".pth")
        given += ["--set", f"model.{part}={path}"]
        # the folder's own weights are not used
        zeros = {name: kept(torch.zeros_like(tensor)) for name, tensor in load_file(file).items()}
        write_checkpoint(file.parent, zeros, "single", {"format": "pt"}, stem="model")
    again = ["run", "--config", str(config), "--set", f"save.save_path={tmp_path / 'again'}", *given]
    assert main(again) == 0
    assert all((tmp_path / "again" / name).read_bytes() == content for name, content in first.items())


def test_check_says_what_each_encoder_gets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = {"rules": [{"match": "*.wo", "skip": True}]}
    config = small_config(
        tmp_path, quant={**ENCODERS, "text_encoder": ENCODERS["text_encoder"] | rules}, save={"save_lightx2v": False}
    )
    assert main(["check", str(config), "--explain"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "text_encoder: 2 blocks, 14 linears" in lines and "image_encoder: 3 blocks, 18 linears" in lines
    assert "rule *.wo: 2 layers" in lines
    assert any(line.startswith("text_encoder SmoothQuant") and line.endswith("then GPTQ") for line in lines)
    wi, fc2 = "encoder.block.{}.layer.1.DenseReluDense.wi_0", "encoder.layers.{}.mlp.fc2"
    assert any(line.startswith(f"{wi} 0-1") and line.endswith("folds into layer.1.layer_norm") for line in lines)
    assert any(line.startswith(f"{fc2} 0-2") and line.endswith("at run time") for line in lines)


def problems(config: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["check", str(config), *options]) == 2
    return capsys.readouterr().err


def test_what_a_target_cannot_take_of_an_encoder_is_refused_before_loading(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    per_tensor = {"method": "RTN", "weight": {"bit": 8}, "act": {"bit": 8, "granularity": "per_tensor"}}
    config = small_config(
        tmp_path, quant={"text_encoder": per_tensor, "image_encoder": {"method": ["RTN", "Awq"], **GRIDS}}
    )
    said = problems(config, capsys)
    assert "quant.text_encoder: lightx2v was asked for in `save`, and it reads weight int8 per_channel" in said
    assert "quant.image_encoder.method.1: Awq comes after RTN" in said
    index = tmp_path / "model" / "model_index.json"
    entries = json.loads(index.read_text())
    index.write_text(json.dumps(entries | {"text_encoder": ["transformers", "T5EncoderModel"]}))
    assert "it takes CLIPVisionModel, UMT5EncoderModel, not T5EncoderModel" in problems(config, capsys)
    index.write_text(json.dumps(entries | {"text_encoder": ["transformers", "Qwen2Model"]}))
    assert "a Qwen2Model, whose layout is not known" in problems(config, capsys)
    index.write_text(json.dumps(entries | {"image_encoder": [None, None]}))
    absent = problems(config, capsys, "--set", f"model.image_encoder={index}")
    assert "leave quant.image_encoder out" in absent and "leave model.image_encoder out" in absent
    assert "does not exist" in problems(config, capsys, "--set", "model.text_encoder=/nowhere.pth")


def test_a_grid_that_lightx2v_reads_of_networks_but_not_of_encoders_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nvfp4 = {"method": "RTN", "weight": {"bit": "nvfp4"}, "act": {"bit": "nvfp4", "static": True}}
    config = small_config(tmp_path, quant={"text_encoder": nvfp4})
    assert "of encoders it reads int8 and fp8_e4m3" in problems(config, capsys)
