"""A whole run of Open-Sora-Plan v1.2 on a tiny random model: judged on latents, or on frames by the user's checkout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmc.__main__ import main
from llmc.models.opensora import OpenSoraPlan
from tests.end_to_end.small_run import small_config
from tests.tiny_pipelines.opensora import save_opensora_plan

WEIGHTS = "diffusion_pytorch_model.safetensors"
STATIC = {"weight": {"bit": 8}, "act": {"bit": 8, "granularity": "per_tensor", "static": True}}

# the interface of the original repository's autoencoder, with weights and a size for a test
CHECKOUT = """
from pathlib import Path

import torch
from safetensors.torch import load_file


class Autoencoder(torch.nn.Module):
    def __init__(self, folder):
        super().__init__()
        self.pixels = torch.nn.Linear(4, 3)
        self.load_state_dict(load_file(Path(folder) / "weights.safetensors"))

    def enable_tiling(self):
        self.use_tiling = True


class CausalVAEModelWrapper:
    def __init__(self, folder):
        self.vae = Autoencoder(folder)

    def decode(self, latents):
        frames = latents.repeat_interleave(4, 2)[:, :, 3:].repeat_interleave(8, 3).repeat_interleave(8, 4)
        return self.vae.pixels(frames.permute(0, 2, 3, 4, 1)).permute(0, 1, 4, 2, 3)
"""


def opensora_config(folder: Path, **changes: dict[str, Any] | None) -> Path:
    save_opensora_plan(folder / "release" / "29x480p")
    model = {"type": "OpenSoraPlan", "path": str(folder / "release" / "29x480p")}
    base: dict[str, dict[str, Any] | None] = {
        "model": model,
        "calib": {"name": "t2v"},
        "eval": {"name": "t2v"},
        "save": {"save_lightx2v": False, "save_fake": True},
    }
    merged = {key: (base.get(key) or {}) | (changes.get(key) or {}) for key in {*base, *changes}}
    return small_config(folder, **merged)


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    package = tmp_path / "checkout" / "opensora" / "models" / "causalvideovae"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(CHECKOUT, encoding="utf-8")
    (tmp_path / "release" / "vae").mkdir(parents=True)
    drawn = torch.randn((3, 4), generator=torch.Generator().manual_seed(0))
    weights = {"pixels.weight": drawn * 0.3, "pixels.bias": torch.zeros(3)}
    save_file(weights, tmp_path / "release" / "vae" / "weights.safetensors")
    yield tmp_path / "checkout"
    for name in [name for name in sys.modules if name.partition(".")[0] == "opensora"]:
        del sys.modules[name]


@pytest.mark.parametrize("quant", [{}, {"video_gen": {"method": "SmoothQuant", **STATIC}}], ids=["dynamic", "static"])
def test_without_a_decoder_latents_are_judged_and_that_is_said(tmp_path: Path, quant: dict[str, Any]) -> None:
    config = opensora_config(tmp_path, quant=quant, ignored_layers={"layer_names": ["*.ff.net.2"]})
    assert main(["run", "--config", str(config)]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    found = results["metrics"]["fake_quant"]
    assert found["psnr"] is None and found["ssim"] is None
    assert 0 < found["latent_error"] < 0.1 and 0 < found["teacher_forced_error"] < 0.01
    assert results["warnings"][0].startswith("the videos were not decoded: only latents are compared")
    assert "the videos were not decoded" in (tmp_path / "run" / "report.html").read_text()
    assert not (tmp_path / "run" / "videos").exists()
    methods = {layer["name"]: layer["method"] for layer in results["layers"]}
    assert len(methods) == 20
    assert sorted(name for name, method in methods.items() if method == "float weight") == [
        "transformer_blocks.0.ff.net.2", "transformer_blocks.1.ff.net.2"
    ]  # fmt: skip


def test_the_fake_model_is_the_source_folder_with_rounded_weights(tmp_path: Path) -> None:
    config = opensora_config(tmp_path, ignored_layers={"layer_names": ["*.attn2.*"]})
    assert main(["run", "--config", str(config), "--set", "eval=null", "--set", "quant.video_gen.method=RTN"]) == 0
    source, fake = tmp_path / "release" / "29x480p", tmp_path / "export" / "fake_quant"
    beside = {"README.md", "llmc_manifest.json"}
    assert {file.name for file in fake.iterdir()} == {file.name for file in source.iterdir()} | beside
    assert json.loads((fake / "config.json").read_text()) == json.loads((source / "config.json").read_text())
    before, after = load_file(source / WEIGHTS), load_file(fake / WEIGHTS)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys() and len(changed) == 12
    assert all(".attn2." not in name and name.startswith("transformer_blocks.") for name in changed)
    reloaded = OpenSoraPlan(text_encoder_path=tmp_path / "release" / "mt5-xxl").load(fake, "float32", "cpu")
    assert torch.equal(reloaded.transformer.state_dict()[min(changed)], after[min(changed)])


def test_with_a_checkout_that_is_trusted_frames_are_judged(tmp_path: Path, checkout: Path) -> None:
    config = opensora_config(tmp_path, model={"code_path": str(checkout), "trust_remote_code": True})
    assert main(["run", "--config", str(config)]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    judged = results["metrics"]["fake_quant"]
    assert results["warnings"] == [] and 20 < judged["psnr"] <= 100 and judged["teacher_forced_error"] > 0
    assert len(list((tmp_path / "run" / "videos" / "fake_quant").glob("*.mp4"))) == 1


def test_the_text_encoder_beside_the_network_is_quantized_too(tmp_path: Path) -> None:
    text = {"method": "RTN", "weight": {"bit": 8}, "act": {"bit": 8}}
    config = opensora_config(tmp_path, quant={"video_gen": {"method": "RTN", **STATIC}, "text_encoder": text})
    assert main(["check", str(config), "--explain"]) == 0
    assert main(["run", "--config", str(config), "--set", "eval=null"]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert sum(layer["name"].startswith("text_encoder.") for layer in results["layers"]) == 2 * 7
    rounded = OpenSoraPlan(text_encoder_path=tmp_path / "export" / "fake_quant" / "text_encoder")
    before = load_file(tmp_path / "release" / "mt5-xxl" / "model.safetensors")
    encoder = rounded.index(tmp_path / "release" / "29x480p")
    assert encoder.config("text_encoder")["model_type"] == "mt5"
    after = load_file(encoder.files["text_encoder"] / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys() and len(changed) == 2 * 7


def test_check_names_what_is_missing_beside_the_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = opensora_config(tmp_path)
    options = ["--set", f"model.code_path={tmp_path}", "--set", "model.trust_remote_code=True"]
    assert main(["check", str(config), *options, "--set", "model.text_encoder_path=/nowhere"]) == 2
    said = capsys.readouterr().err
    assert "model.text_encoder_path: /nowhere does not exist" in said
    assert "model.vae_path" in said and "release/vae does not exist" in said


def test_explain_shows_who_can_absorb_a_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(opensora_config(tmp_path)), "--explain"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "transformer: 2 blocks, 20 linears" in lines
    spec = "weight int8 per_channel, act int8 per_token"
    assert f"transformer_blocks.{{}}.attn1.to_out.0 0-1 {spec} folds into attn1.to_v" in lines
    assert f"transformer_blocks.{{}}.attn2.to_q 0-1 {spec} at run time" in lines


def test_targets_that_cannot_hold_it_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = opensora_config(tmp_path, save={"save_fake": False})
    for target, says in {"diffusers": "has no model_index.json", "comfyui": "which are not known",
                         "lightx2v": "reads no network of OpenSoraPlan"}.items():  # fmt: skip
        assert main(["check", str(config), "--set", f"save.save_{target}=True"]) == 2
        assert says in " ".join(capsys.readouterr().err.split())
