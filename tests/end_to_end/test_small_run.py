"""A whole run through the command line on a tiny random model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from llmc.__main__ import main
from llmc.convert.converter import plan_conversion, write_conversion
from tests.end_to_end.small_run import small_config

EXPORTED = "diffusion_pytorch_model.safetensors"


def run(config: Path, *options: str) -> int:
    return main(["run", "--config", str(config), *options])


def assert_same_tensors(one: Path, other: Path) -> None:
    before, after = load_file(one / EXPORTED), load_file(other / EXPORTED)
    assert before.keys() == after.keys()
    assert [n for n in before if before[n].dtype != after[n].dtype or not before[n].equal(after[n])] == []


def test_a_run_leaves_a_checkpoint_videos_figures_and_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config(tmp_path, samples=2)
    assert run(config, "--json") == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary.keys() == {"run", "checkpoint", "report", "metrics"}
    assert summary["metrics"].keys() == {"float", "baseline", "fake_quant"}
    for position, figures in summary["metrics"].items():
        assert figures.keys() == {"psnr", "ssim", "latent_error", "teacher_forced_error"}
        assert (figures["teacher_forced_error"] == 0) == (position == "float")
    folder = tmp_path / "run"
    for name in ("config.json", "versions.json", "results.json", "layers.csv", "report.html", "run.log"):
        assert (folder / name).stat().st_size > 0, name
    for position in ("float", "baseline", "fake_quant"):
        assert len(list((folder / "videos" / position).glob("*.mp4"))) == 2
    results = json.loads((folder / "results.json").read_text())
    assert len(results["layers"]) == 24 and all(layer["error"] is not None for layer in results["layers"])
    assert [block["name"] for block in results["blocks"]["fake_quant"]] == ["blocks.0", "blocks.1"]
    assert [len(sample["steps"]["fake_quant"]) for sample in results["samples"]] == [2, 2]
    assert (Path(summary["checkpoint"]) / EXPORTED).is_file()


def test_a_run_without_data_still_tells_the_error_of_every_weight(tmp_path: Path) -> None:
    config = small_config(tmp_path, calib=None, eval=None, save={"save_lightx2v": False, "save_mindie": True})
    skip = '[{"match": "blocks.1.ffn.net.2", "skip": true}]'
    assert run(config, "--set", "quant.video_gen.method=RTN", "--set", f"quant.video_gen.rules={skip}") == 0
    layers = {layer["name"]: layer for layer in json.loads((tmp_path / "run" / "results.json").read_text())["layers"]}
    assert layers.pop("blocks.1.ffn.net.2")["weight_error"] is None
    assert all(1e-6 < layer["weight_error"] < 1e-3 and layer["error"] is None for layer in layers.values())
    card = (tmp_path / "export" / "README.md").read_text()
    worst = max(layers, key=lambda name: layers[name]["weight_error"])
    assert f"{worst}: {layers[worst]['weight_error']:.2e} |" in card and "Outputs were not measured" in card


def test_the_same_configuration_runs_again_and_another_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config(tmp_path, eval=None, save={"save_fake": True})
    assert run(config) == 0
    first = {file: file.read_bytes() for file in (tmp_path / "export").rglob("*.safetensors")}
    assert len(first) > 1
    assert run(config) == 0
    assert all(file.read_bytes() == content for file, content in first.items())
    assert run(config, "--set", "quant.video_gen.method=RTN") == 2
    assert "which this configuration did not write" in capsys.readouterr().err
    assert run(config, "--set", "quant.video_gen.method=RTN", "--set", "save.overwrite=True") == 0


@pytest.fixture(scope="module")
def unjudged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of a run that judges nothing."""
    folder = tmp_path_factory.mktemp("unjudged")
    assert run(small_config(folder, eval=None)) == 0
    return folder / "export"


def test_judging_changes_no_byte_of_the_export(unjudged: Path, tmp_path: Path) -> None:
    """The export is written before the videos are made."""
    assert run(small_config(tmp_path)) == 0
    assert_same_tensors(tmp_path / "export", unjudged)


def test_export_backward_and_forward_is_the_identity(unjudged: Path, tmp_path: Path) -> None:
    write_conversion(plan_conversion(unjudged, "backward", "wan_dit"), tmp_path / "native", "blocks")
    write_conversion(plan_conversion(tmp_path / "native", "forward", "wan_dit"), tmp_path / "back", "single")
    assert_same_tensors(unjudged, tmp_path / "back")


def test_streamed_calibration_writes_the_same_file(unjudged: Path, tmp_path: Path) -> None:
    assert run(small_config(tmp_path, eval=None, calib={"streamed": True})) == 0
    assert_same_tensors(unjudged, tmp_path / "export")


@pytest.mark.parametrize(
    "static", [{"granularity": "per_tensor", "static": True}, {"granularity": "per_tensor"}], ids=str
)
def test_other_grids_run_without_an_export(tmp_path: Path, static: dict[str, object]) -> None:
    quant = {
        "video_gen": {
            "method": "RTN",
            "weight": {"bit": 4, "granularity": "per_group", "group_size": 16, "symmetric": False},
            "act": {"bit": 8, "symmetric": False, **static},
            "rules": [{"match": "*.ffn.net.2", "weight": {"bit": 8}}, {"match": "blocks.0.attn1.*", "skip": True}],
        }
    }
    config = small_config(tmp_path, quant=quant, save={"save_lightx2v": False})
    assert run(config) == 0
    layers = {layer["name"]: layer for layer in json.loads((tmp_path / "run" / "results.json").read_text())["layers"]}
    assert layers["blocks.0.attn1.to_q"]["method"] == "float weight"
    assert "int8 per_channel" in layers["blocks.1.ffn.net.2"]["spec"]
    assert "int4 per_group 16 asymmetric" in layers["blocks.1.ffn.net.0.proj"]["spec"]


def test_transformed_videos_are_judged_by_llmcs_names(tmp_path: Path) -> None:
    config = small_config(tmp_path, eval={"eval_pos": ["pretrain", "transformed", "fake_quant"], "baseline": None})
    assert run(config) == 0
    metrics = json.loads((tmp_path / "run" / "results.json").read_text())["metrics"]
    assert metrics.keys() == {"float", "transformed", "fake_quant"}
    assert metrics["transformed"]["teacher_forced_error"] < 1e-10 < metrics["fake_quant"]["teacher_forced_error"]


def test_real_arithmetic_is_judged_beside_its_simulation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small_config(tmp_path, eval={"eval_pos": ["fake_quant", "real_quant"], "baseline": None})
    assert run(config) == 0
    figures = json.loads((tmp_path / "run" / "results.json").read_text())["metrics"]
    assert figures["real_quant"]["psnr"] == pytest.approx(figures["fake_quant"]["psnr"], abs=0.5)
    assert "24 layers by torch._int_mm" in (tmp_path / "run" / "run.log").read_text()
    capsys.readouterr()
    assert run(config, "--set", "quant.video_gen.act=null") == 2
    assert "real_quant was asked for in `eval.eval_pos`, and real arithmetic multiplies" in capsys.readouterr().err


def test_check_explains_what_each_layer_gets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = [{"match": "*.ffn.net.2", "act": None}, {"match": "blocks.1.attn1.*", "skip": True}]
    quant = {"video_gen": {"method": "SmoothQuant", "weight": {"bit": 8}, "act": {"bit": 8}, "rules": rules}}
    config = small_config(tmp_path, quant=quant, save={"save_lightx2v": False})
    assert main(["check", str(config), "--explain"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "transformer: 2 blocks, 24 linears" in lines
    assert "blocks.{}.ffn.net.2 0-1 weight int8 per_channel, act float at run time" in lines
    assert "blocks.{}.attn1.to_q 1 weight float, act float at run time beside norm1" in lines
    assert "rule *.ffn.net.2: 2 layers" in lines and "rule blocks.1.attn1.*: 4 layers" in lines
    assert main(["check", str(config), "--explain", "--set", "quant.video_gen.rules.0.match='*fnn*'"]) == 2
    assert "'*fnn*' matches no layer" in capsys.readouterr().err
