"""Whole runs of the families beside Wan, on tiny random models: images are judged as such, both layouts are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from llmc.__main__ import main
from llmc.calib.value_folder import Kept
from llmc.convert.names import Known, Names
from llmc.convert.safetensors_file import write_file
from llmc.models.base import adapters
from tests.tiny_pipelines import TINY, save_samples

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


def family_config(folder: Path, family: str, **quant: Any) -> Path:
    """A pipeline of the family, samples, and a configuration that exports float weights and judges one sample."""
    save, sampling = TINY[family]
    save(folder / "model")
    save_samples(folder / "samples", 1)
    adapter = adapters()[family]
    size: dict[str, Any] = {"name": adapter.tasks()[0], "path": str(folder / "samples"),
                            "target_height": sampling.height, "target_width": sampling.width,
                            "guidance_scale": sampling.guidance_scale}  # fmt: skip
    if not adapter.makes_images:
        size["num_frames"] = sampling.num_frames
    grids = {"weight": {"bit": 8, "granularity": "per_channel"}, "act": {"bit": 8, "granularity": "per_token"}}
    config = {
        "base": {"seed": 7, "run_dir": str(folder / "run"), "device": "cpu"},
        "model": {"type": family, "path": str(folder / "model")},
        "calib": {**size, "sample_steps": 2},
        "eval": {**size} if adapter.makes_images else {**size, "metrics": ["psnr", "ssim"]},
        "quant": {"video_gen": {"method": {"name": "SmoothQuant", "gate": False}, **grids, **quant}},
        "save": {"save_fake": True, "save_path": str(folder / "export")},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def run(config: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert main(["run", "--config", str(config), "--json", *options]) == 0
    summary: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return summary


def test_an_image_is_written_shown_and_judged_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = run(family_config(tmp_path, "Flux"), capsys)
    for figures in summary["metrics"].values():
        assert figures.keys() == {"psnr", "ssim", "latent_error", "teacher_forced_error"}
    assert 0 < summary["metrics"]["fake_quant"]["teacher_forced_error"] < 0.01
    for position in ("float", "baseline", "fake_quant"):
        assert [file.suffix for file in (tmp_path / "run" / "videos" / position).iterdir()] == [".png"]
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert page.count('<img src="data:image/png') == 4 and "<video src" not in page
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert results["warnings"] == [] and len(results["layers"]) == 2 * 12 + 2 * 5
    (recording,) = (tmp_path / "run").glob("float-*")
    calls = Kept(recording).get("sample.0").calls["transformer"]
    assert [(call.step, call.branch) for call in calls] == [(0, "cond"), (1, "cond")]


def test_hunyuan_video_is_quantized_judged_and_loads_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = run(
        family_config(tmp_path, "HunyuanVideo", act={"bit": 8, "granularity": "per_tensor", "static": True}), capsys
    )
    assert 0 < summary["metrics"]["fake_quant"]["teacher_forced_error"] < 0.01
    for position in ("float", "baseline", "fake_quant"):
        assert [file.suffix for file in (tmp_path / "run" / "videos" / position).iterdir()] == [".mp4"]
    before, after = load_file(tmp_path / "model" / TRANSFORMER), load_file(tmp_path / "export/fake_quant" / TRANSFORMER)
    assert before.keys() == after.keys()
    changed = {name for name in before if not before[name].equal(after[name])}
    blocks = ("transformer_blocks.", "single_transformer_blocks.")
    assert len(changed) == 2 * 12 + 2 * 5 and all(name.startswith(blocks) and ".norm" not in name for name in changed)
    again = adapters()["HunyuanVideo"]().load(tmp_path / "export" / "fake_quant", "auto", "cpu")
    assert again.transformer.state_dict().keys() == after.keys()


@pytest.mark.parametrize(
    ("family", "file"),
    [
        ("SD3", "sd3_medium.safetensors"),
        ("Flux", "flux1-dev.safetensors"),
        ("HunyuanVideo", "mp_rank_00_model_states.pt"),
    ],
)
def test_a_transformer_in_its_original_layout_gives_the_same_export(
    family: str, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = family_config(tmp_path, family)
    run(config, capsys, "--set", "eval=null")
    (part,) = adapters()[family]().skeleton(tmp_path / "model")
    state = load_file(tmp_path / "model" / TRANSFORMER)
    naming = Names(adapters()[family].original(part.module))
    original = naming.to_original({name: Known(tensor) for name, tensor in state.items()})
    if file.endswith(".pt"):  # as the release has it: a training checkpoint, the network under one key
        torch.save({"module": {name: tensor.make().clone() for name, tensor in original.items()}}, tmp_path / file)
    else:
        write_file(tmp_path / file, original)
    (tmp_path / "model" / TRANSFORMER).unlink()
    run(config, capsys, "--set", "eval=null", "--set", f"model.transformer={tmp_path / file}",
        "--set", f"save.save_path={tmp_path / 'other'}")  # fmt: skip
    one, two = (load_file(tmp_path / folder / "fake_quant" / TRANSFORMER) for folder in ("export", "other"))
    assert one.keys() == two.keys() == state.keys()
    assert all(one[name].equal(two[name]) for name in one) and not all(one[name].equal(state[name]) for name in one)
