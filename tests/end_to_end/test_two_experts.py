"""A whole run on a tiny Wan2.2: two experts, each with its own statistics, rules, tables and files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llmc.__main__ import main
from tests.end_to_end.small_run import small_config

WEIGHTS = "diffusion_pytorch_model.safetensors"
W8A8 = {"method": "SmoothQuant", "weight": {"bit": 8}, "act": {"bit": 8}}
RULES = [
    {"match": "transformer.blocks.0.ffn.net.2", "skip": True},
    {"match": "transformer_2.*.attn1.*", "weight": {"bit": 4}},
]


def test_each_expert_has_its_own_statistics_rules_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three prompts and five steps: two above the boundary at 0.875, three below."""
    quant = {"video_gen": {**W8A8, "rules": RULES}}
    save = {"save_lightx2v": False, "save_fake": True}
    config = small_config(tmp_path, 3, "Wan2T2V", eval={"n_samples": 1}, quant=quant, save=save)
    steps = ["--set", "calib.sample_steps=5", "--set", "eval.guidance_scale_2=1.5"]
    assert main(["run", "--config", str(config), "--json", *steps]) == 0
    metrics = json.loads(capsys.readouterr().out.splitlines()[-1])["metrics"]
    assert 0 < metrics["fake_quant"]["teacher_forced_error"] < 0.01

    results = json.loads((tmp_path / "run" / "results.json").read_text())
    coverage = [(row["part"], row["sample"], row["steps"], row["calls"]) for row in results["coverage"]]
    assert coverage == [
        *(("transformer", sample, "0-1", 4) for sample in range(3)),
        *(("transformer_2", sample, "2-4", 6) for sample in range(3)),
    ]
    assert results["warnings"] == []
    assert "transformer_2 saw samples 0-2: of each steps 2-4, 6 calls" in (tmp_path / "run" / "run.log").read_text()
    assert "What calibration saw" in (tmp_path / "run" / "report.html").read_text()

    layers = {layer["name"]: layer for layer in results["layers"]}
    assert len(layers) == len(results["layers"]) == 2 * 20
    assert layers["transformer.blocks.0.ffn.net.2"]["spec"].count("float") == 2
    assert "int8" in layers["transformer_2.blocks.0.ffn.net.2"]["spec"]
    assert "int4" in layers["transformer_2.blocks.1.attn1.to_q"]["spec"]
    assert "int8" in layers["transformer.blocks.1.attn1.to_q"]["spec"]
    assert all(layer["error"] != layers[name.replace("transformer.", "transformer_2.")]["error"]
               for name, layer in layers.items() if name.startswith("transformer."))  # fmt: skip
    blocks = [block["name"] for block in results["blocks"]["fake_quant"]]
    assert blocks == [f"{part}.blocks.{i}" for part in ("transformer", "transformer_2") for i in (0, 1)]

    for part in ("transformer", "transformer_2"):
        ours = load_file(tmp_path / "export" / "fake_quant" / part / WEIGHTS)
        source = load_file(tmp_path / "model" / part / WEIGHTS)
        changed = {name for name in source if not torch.equal(ours[name].float(), source[name].float())}
        kept = {"blocks.0.ffn.net.2.weight"} if part == "transformer" else set()
        linears = {name for name in source if name.startswith("blocks.") and source[name].ndim == 2}
        assert {name for name in changed if source[name].ndim == 2} == linears - kept, part


def test_an_expert_that_would_see_no_step_is_refused_before_anything_is_generated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config(tmp_path, 1, "Wan2T2V", eval=None, save={"save_lightx2v": False})
    assert main(["run", "--config", str(config), "--set", "calib.sample_steps=1"]) == 2
    assert "transformer_2 runs in none of the 1 steps" in capsys.readouterr().err


def test_check_explains_both_experts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small_config(
        tmp_path, 1, "Wan2T2V", quant={"video_gen": {**W8A8, "rules": RULES}}, save={"save_lightx2v": False}
    )
    assert main(["check", str(config), "--explain"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "transformer (high noise expert): 2 blocks, 20 linears" in lines
    assert "transformer_2 (low noise expert): 2 blocks, 20 linears" in lines
    assert "rule transformer.blocks.0.ffn.net.2: 1 layers" in lines
    assert "rule transformer_2.*.attn1.*: 8 layers" in lines
    assert main(["check", str(config), "--explain", "--set", "quant.video_gen.rules.0.match=transformer_3.*"]) == 2
    assert "'transformer_3.*' matches no layer" in capsys.readouterr().err
