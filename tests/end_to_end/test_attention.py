"""Attention quantized in a whole run, from the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llmc.__main__ import main
from tests.end_to_end.small_run import small_config

W8A8 = {"weight": {"bit": 8, "granularity": "per_channel"}, "act": {"bit": 8, "granularity": "per_token"}}


def attending(folder: Path, attention: dict[str, Any], linears: dict[str, Any] | None = None, **changes: Any) -> Path:
    quant = {"video_gen": {"method": "RTN", **(W8A8 if linears is None else linears), "attention": attention}}
    save = {"save_lightx2v": False, "save_fake": True}
    return small_config(folder, quant=quant, **{"save": save, **changes})


def results(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "run" / "results.json").read_text())
    return read


def test_attention_is_calibrated_judged_and_listed_with_its_errors(tmp_path: Path) -> None:
    attention = {"bit": 8, "static": True, "include": ["*.attn1"]}
    assert main(["run", "--config", str(attending(tmp_path, attention))]) == 0
    found = results(tmp_path)
    assert {each["name"] for each in found["attentions"]} == {"blocks.0.attn1", "blocks.1.attn1"}
    for each in found["attentions"]:
        assert each["spec"] == "int8 per_head static over 99.99% of q and k"
        assert each["quantized"] and 0 < each["error"] < 1e-2
    with (tmp_path / "run" / "attentions.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == [each["name"] for each in found["attentions"]]
    assert "Attention, worst first" in (tmp_path / "run" / "report.html").read_text()
    assert "attention int8 per_head" in found["recipe"]
    assert "Attention in transformer: 2 of 2 are quantized" in (tmp_path / "export/fake_quant/README.md").read_text()
    assert [sample["prompt"] for sample in found["coverage"]]  # plain rounding of linears alone would see no call


def test_attention_alone_is_judged_and_what_loses_too_much_stays_float(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = attending(tmp_path, {"bit": "e4m3", "rotate": "online"}, linears={}, save={"save_lightx2v": False})
    assert main(["run", "--config", str(path), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])["metrics"]
    assert 0 < figures["fake_quant"]["teacher_forced_error"] < 1e-2
    assert figures["baseline"]["teacher_forced_error"] != figures["fake_quant"]["teacher_forced_error"]
    worst = results(tmp_path)["attentions"][0]["error"]
    limit = ["--set", f"quant.video_gen.attention.max_error={worst * 0.999}", "--set", f"base.run_dir={tmp_path}/two"]
    assert main(["run", "--config", str(path), *limit, "--set", "eval=null"]) == 0
    found = json.loads((tmp_path / "two" / "results.json").read_text())["attentions"]
    assert [each["quantized"] for each in found] == [False, True, True, True]
    assert "1 of 4 attentions stay float" in (tmp_path / "two" / "run.log").read_text()
    nothing = ["--set", "quant.video_gen.attention.max_error=1e-12", "--set", f"base.run_dir={tmp_path}/three"]
    assert main(["run", "--config", str(path), *nothing, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])["metrics"]
    assert figures["fake_quant"]["teacher_forced_error"] == 0


def test_statistics_of_linears_go_beside_those_of_attention(tmp_path: Path) -> None:
    quant = {"video_gen": {"method": {"name": "GPTQ"}, **W8A8, "attention": {"bit": 8, "static": True}}}
    config = small_config(tmp_path, quant=quant, save={"save_lightx2v": False}, eval=None)
    assert main(["run", "--config", str(config)]) == 0
    found = results(tmp_path)
    assert all(each["error"] is not None for each in [*found["attentions"], *found["layers"]])


def test_check_lists_attentions_and_refuses_globs_that_match_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = attending(tmp_path, {"bit": "e4m3", "exclude": ["*.attn2"]})
    assert main(["check", str(path), "--explain"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "blocks.{}.attn1 0-1 fp8_e4m3 per_head" in lines and "blocks.{}.attn2 0-1 float" in lines
    assert "attention *.attn2: 2 attentions" in lines and "attention fp8_e4m3 per_head" in lines
    assert main(["check", str(path), "--explain", "--set", "quant.video_gen.attention.exclude=['*.atn2']"]) == 2
    assert "'*.atn2' matches no attention" in capsys.readouterr().err


def test_rules_of_attention_are_those_of_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = [{"match": "*.attn2", "skip": True}, {"match": "blocks.0.*", "bit": 8, "static": True, "rotate": None}]
    path = attending(tmp_path, {"bit": "e4m3", "rotate": "online", "rules": rules})
    assert main(["check", str(path), "--explain"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "blocks.{}.attn1 0 int8 per_head static over 99.99% of q and k" in lines
    assert "blocks.{}.attn1 1 fp8_e4m3 per_head rotated" in lines and "blocks.{}.attn2 0-1 float" in lines
    assert "attention blocks.0.*: 2 attentions" in lines and "*.attn2 float" in lines
    assert main(["run", "--config", str(path), "--set", "eval=null"]) == 0
    specs = {each["name"]: each["spec"] for each in results(tmp_path)["attentions"]}
    assert specs == {
        "blocks.0.attn1": "int8 per_head static over 99.99% of q and k",
        "blocks.1.attn1": "fp8_e4m3 per_head rotated",
    }
    assert "fp8_e4m3 per_head rotated and int8 per_head static" in results(tmp_path)["recipe"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("save.save_lightx2v=True", "lightx2v was asked for in `save`, and it cannot store how attention is quantized"),
        ("quant.video_gen.attention.bit=6", "it is 6; allowed: 8, e4m3, mxfp8, mxfp4"),
        ("quant.video_gen.attention.recall=0.99", "recall is for scales that are calibrated"),
        ("quant.video_gen.attention={bit: mxfp8, static: True}", "mxfp8 measures the scale of every 32 values"),
        ("quant.video_gen.attention={bit: mxfp8, rotate: offline}", "allowed: online"),
        ("quant.video_gen.attention={bit: 8, rules: [{match: '*.attn2'}]}", "says nothing but `match`"),
        ("quant.video_gen.attention={bit: 8, rules: [{match: '*', skip: True, bit: 8}]}", "`skip: True` and a grid"),
        (
            "quant.video_gen.attention={bit: 8, rules: [{match: '*', bit: mxfp8, static: True}]}",
            "write `static: False`",
        ),
        ("quant.text_encoder={method: RTN, attention: {bit: 8}}", "text_encoder.attention is given"),
    ],
)
def test_what_cannot_work_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: str, said: str
) -> None:
    path = attending(tmp_path, {"bit": "e4m3"})
    assert main(["check", str(path), "--set", settings]) == 2
    assert said in capsys.readouterr().err


def test_mindie_2_3_gets_a_scale_for_each_head_of_hunyuan(tmp_path: Path) -> None:
    quant = {"video_gen": {"method": "RTN", **W8A8, "attention": {"bit": 8, "static": True}}}
    save = {"save_lightx2v": False, "save_mindie": True, "mindie_version": "2.3"}
    config = small_config(tmp_path, family="HunyuanVideo", quant=quant, save=save, eval=None)
    assert main(["run", "--config", str(config)]) == 0
    description = json.loads((tmp_path / "export/quant_model_description_w8a8_dynamic.json").read_text())
    tensors = load_file(tmp_path / "export/quant_model_weight_w8a8_dynamic.safetensors")
    assert description["fa_quant_type"] == "FAQuant"
    attended = {name.rpartition(".fa_")[0] for name, said in description.items() if said == "FAQuant"} - {""}
    assert attended == {f"{kind}_blocks.{i}" for kind in ("double", "single") for i in range(2)}
    for name in attended:
        for role in ("q", "k", "v"):
            scale, offset = tensors[f"{name}.fa_{role}.scale"], tensors[f"{name}.fa_{role}.offset"]
            assert scale.shape == offset.shape == (4, 1) and (scale > 0).all() and not offset.any()


def test_mindie_3_gets_types_and_rotations_of_self_attention(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attention = {"bit": "e4m3", "rotate": "online", "exclude": ["*.attn2"]}
    quant = {"video_gen": {"method": "RTN", **W8A8, "attention": attention}}
    save = {"save_lightx2v": False, "save_mindie": True, "soc": "a5"}
    config = small_config(tmp_path, quant=quant, save=save, eval=None)
    assert main(["check", str(config), "--explain", "--set", "quant.video_gen.attention.exclude=[]"]) == 2
    assert "blocks.0.attn2 is a cross-attention, and MindIE quantizes" in capsys.readouterr().err
    assert main(["check", str(config), "--set", "save.soc=a2"]) == 2
    assert "attention in fp8_e4m3 runs on a5 alone; found `soc: a2`" in capsys.readouterr().err
    assert main(["run", "--config", str(config)]) == 0
    description = json.loads((tmp_path / "export/quant_model_description_w8a8_dynamic.json").read_text())
    tensors = load_file(tmp_path / "export/quant_model_weight_w8a8_dynamic.safetensors")
    types = {name: said for name, said in description.items() if said == "FP8_DYNAMIC"}
    assert set(types) == {"blocks.0.self_attn.quant_type", "blocks.1.self_attn.quant_type"}
    rotation = tensors["blocks.0.self_attn.q_rot"]
    assert rotation.equal(tensors["blocks.1.self_attn.k_rot"]) and rotation.shape == (16, 16)
    torch.testing.assert_close(rotation.float() @ rotation.float().T, torch.eye(16))
    assert {each["spec"] for each in results(tmp_path)["attentions"]} == {"fp8_e4m3 per_block rotated"}
