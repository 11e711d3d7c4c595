"""Every recipe that ships runs as it is, on a tiny pipeline of its model: record, calibrate, export, judge, verify."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmc.__main__ import main
from llmc.compat.load import load_document
from llmc.models.base import adapters
from llmc.verify.run import verify
from tests.slices import slow_if
from tests.tiny_pipelines import TINY, save_samples
from tests.tiny_pipelines.flux import save_flux
from tests.tiny_pipelines.sd3 import save_sd3
from tests.tiny_pipelines.wan import save_wan_i2v

BESIDE = {"text_encoder_path": "mt5-xxl"}  # what a tiny pipeline puts beside its folder
CONFIGS = Path(__file__).parents[2] / "configs/quantization/video_gen"
RECIPES = {
    f"{path.parent.name}/{path.stem}": path
    for path in sorted(CONFIGS.rglob("*.yaml"))
    if "tiny" not in path.parent.name
}
# networks of one family that differ; a recipe that begins with the name of one runs on that, the others on all
VARIANTS: dict[str, dict[str, Callable[[Path], None]]] = {
    "flux": {"dev": save_flux, "schnell": partial(save_flux, guided=False)},
    "sd3": {"sd3": partial(save_sd3, dual=False), "sd35": save_sd3},
}
# recipes for kernels that work in wide tiles
WIDTHS = {
    "wan_i2v/fp8_block128": 128, "wan_i2v/int4_marlin": 256, "wan_i2v/mxfp4": 128, "wan_i2v/mxfp6_mxfp8": 128,
    "wan_i2v/mxfp8": 128, "wan_i2v/mindie_w4a4_mxfp4_dualscale": 512,
}  # fmt: skip
# in the default suite, of families and strategies that no other whole run has
SLICE = {
    "wan_t2v/few_step_w_a",
    "hunyuan_t2v/mindie_w8a8_timestep",
    "flux/mindie_w8a8_dynamic_m6-schnell",
    "sd3/smoothquant_w_a_fp8_encoders-sd3",
}
SERVED = {"lightx2v", "diffusers", "comfyui", "mindie"}  # targets whose rules are known


def cases() -> list[object]:
    found = {}
    for name in RECIPES:
        folder, _, recipe = name.partition("/")
        variants = VARIANTS.get(folder, {})
        own = [variant for variant in variants if recipe.startswith(f"{variant}_")]
        found |= {f"{name}-{variant}": (name, variant) for variant in own or variants} or {name: (name, "")}
    assert found.keys() >= SLICE
    return [pytest.param(*each, id=id, marks=slow_if(id not in SLICE)) for id, each in found.items()]


@pytest.mark.parametrize(("name", "variant"), cases())
def test_a_recipe_runs_on_a_tiny_pipeline(
    name: str, variant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = load_document(RECIPES[name]).values
    save_model(name, variant, written["model"]["type"], tmp_path / "model")
    save_samples(tmp_path / "samples", 1)
    changes = changed(name, written, tmp_path)
    options = [option for key, value in changes.items() for option in ("--set", f"{key}={value}")]
    assert main(["run", "--config", str(RECIPES[name]), "--json", *options]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 < summary["metrics"]["fake_quant"]["teacher_forced_error"] < 0.05
    assert list(Path(summary["checkpoint"]).rglob("*.safetensors"))
    if SERVED & written["save"].keys():
        report = verify(Path(summary["checkpoint"]), against=tmp_path / "run")
        assert [verdict for verdict in report.verdicts if verdict.status == "fail"] == []


def test_one_command_quantizes_by_a_recipe(tmp_path: Path) -> None:
    name = "sd3/mindie_w8a8_static"
    save_model(name, "sd35", "SD3", tmp_path / "model")
    save_samples(tmp_path / "samples", 1)
    changes = changed(name, load_document(RECIPES[name]).values, tmp_path)
    given = {"--model_path": changes.pop("model.path"), "--save_path": changes.pop("save.path"),
             "--device": changes.pop("base.device"), "--model_type": "SD3", "--quant_type": "w8a8_static"}  # fmt: skip
    options = [str(word) for pair in given.items() for word in pair]
    options += [
        word for key, value in changes.items() if not key.startswith("eval.") for word in ("--set", f"{key}={value}")
    ]
    assert main(["quant", *options]) == 0
    assert (
        json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))["metrics"] == {}
    )  # `--eval` judges
    assert verify(tmp_path / "export" / "mindie", against=tmp_path / "run").passed


def save_model(name: str, variant: str, family: str, folder: Path) -> None:
    """The tiny pipeline of the family, of its variant, or a wide one."""
    if variant:
        VARIANTS[name.partition("/")[0]][variant](folder)
    elif name in WIDTHS:
        save_wan_i2v(folder, layers=1, width=WIDTHS[name])
    else:
        TINY[family][0](folder)


def changed(name: str, written: dict[str, Any], folder: Path) -> dict[str, object]:
    """What a recipe must change to run on what lies in `folder`."""
    family = written["model"]["type"]
    sampling = TINY[family][1]
    changes: dict[str, object] = {
        "base.run_dir": folder / "run",
        "base.device": "cpu",
        "model.path": folder / "model",
        "save.path": folder / "export",
        "eval.metrics": "[psnr]",
        "eval.output_video_path": folder / "videos",
    }
    size = {"target_height": sampling.height, "target_width": sampling.width, "path": folder / "samples"}
    if not adapters()[family].makes_images:
        size["num_frames"] = sampling.num_frames
    changes |= {f"{section}.{key}": value for section in ("calib", "eval") for key, value in size.items()}
    quant = written["quant"]["video_gen"]
    if "denoising_step_list" not in written["calib"]:
        steps = 4 if family in ("Wan2T2V", "Wan2I2V") else 2  # the shift leaves the low-noise expert the last of four
        changes["calib.sample_steps"] = steps
        for index, method in enumerate(quant["method"] if isinstance(quant["method"], list) else []):
            if "timestep_sep" in method:
                changes[f"quant.video_gen.method.{index}.timestep_sep"] = steps // 2
    for grid in ("weight", "act") if name not in WIDTHS else ():
        if quant.get(grid, {}).get("group_size"):
            changes[f"quant.video_gen.{grid}.group_size"] = 16
    if "lora" in written["model"]:
        changes["model.lora.0.path"] = save_lora(folder / "model", folder / "lora.safetensors")
    return changes | {f"model.{key}": folder / place for key, place in BESIDE.items() if written["model"].get(key)}


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
