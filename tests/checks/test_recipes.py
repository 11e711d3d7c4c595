"""Methods, grids and targets that do not go together are refused before a model is loaded."""

import json
from pathlib import Path

import pytest

from llmc.checks.configuration import config_problems
from llmc.checks.recipes import order_problems
from llmc.config.save import SaveConfig
from llmc.models.wan import WanI2V
from tests.config.conftest import Load, message


def test_a_grid_that_the_target_cannot_store_is_refused(load: Load) -> None:
    assert "lightx2v was asked for in `save`" in message(load("quant.video_gen.weight.bit=4"))


def test_a_runtime_json_needs_to_know_how_videos_are_made(load: Load) -> None:
    bare = ["calib=null", "eval=null", "quant.video_gen.method=RTN", "quant.video_gen.special=null"]
    native = "save.native_names=True"
    assert "neither calib nor eval says it: give one of them" in message(load(*bare, native))
    assert config_problems(load(*bare[1:], native)) == config_problems(load(*bare, "save.native_names=False")) == []


def test_what_qpytorch_needs_to_build_itself_is_missed_before_the_hours(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = "{bit: e4m3, use_qtorch: True}"
    config = load(f"quant.video_gen.weight={grid}", f"quant.video_gen.act={grid}")
    assert config_problems(config) == []
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    assert "finds no ninja and no C++ compiler" in message(config)


@pytest.mark.parametrize(
    "methods, says",
    [
        (["RTN", "SmoothQuant"], "SmoothQuant comes after RTN, which has rounded the weights"),
        (["GPTQ", {"name": "LowRank"}], "LowRank comes after GPTQ"),
        (["SmoothQuant", "GPTQ", {"name": "LowRank", "of": "error"}], ""),
        (["Static", "SmoothQuant"], "SmoothQuant comes after Static, which has fixed the scales of acts; put"),
        (["Static", "Timestep"], "Timestep comes after Static, which has fixed the scales of acts; leave one"),
        (["SmoothQuant", "GPTQ", "Timestep"], ""),
        (["SmoothQuant", "Hadamard", "LowRank", "GPTQ"], ""),
    ],
    ids=str,
)
def test_methods_in_an_impossible_order_are_refused_with_the_reason(
    load: Load, methods: list[object], says: str
) -> None:
    config = load(f"quant.video_gen.method={json.dumps(methods)}", "quant.video_gen.special=null")
    problems = [problem.text for problem in order_problems(config)]
    assert [says in text for text in problems] == ([True] if says else [])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["eval.steps=7"], "it is 7, and Timestep has scales for the steps of calib, where it is 20; write the same"),
        (["eval.sample_shift=5"], "it is 5.0, and Timestep has scales"),
        (["quant.video_gen.method=[{name: Timestep, timestep_sep: 20}]"], "calib runs 20 steps, so that none"),
        (["calib.max_calls=16"], "max_calls is 16, and Timestep keeps scales for each of 20 steps, so that some would"),
        (["calib.max_calls=20"], ""),
        (["quant.video_gen.act={bit: 8}"], "acts with `static: True`, and there is none"),
        (["quant.video_gen.act={bit: nvfp4, static: True}"], "Timestep cannot keep scales of nvfp4 for each step"),
        (["save={save_lightx2v: True, save_path: out}"], "it cannot store what the methods leave on a layer: steps"),
        ([], ""),
    ],
    ids=str,
)
def test_scales_of_each_step_are_refused_where_they_would_not_be_those_of_the_step_that_runs(
    load: Load, changes: list[str], says: str
) -> None:
    static = "{bit: 8, granularity: per_tensor, static: True}"
    always = ["quant.video_gen.method=[Timestep]", "quant.video_gen.special=null", f"quant.video_gen.act={static}"]
    config = load(*always, "save={}", *changes)
    if says:
        assert says in message(config)
    else:
        assert config_problems(config) == []


def test_a_target_that_needs_names_the_family_does_not_give_is_refused(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load("save={save_comfyui: True, save_path: out}")
    assert config_problems(config) == []
    monkeypatch.setattr(WanI2V, "knows_original", classmethod(lambda cls: False))
    assert "comfyui needs the names of WanI2V in its own repository" in message(config)
    config = load("save={save_lightx2v: True, save_path: out}")  # whichever names it writes
    monkeypatch.setattr(WanI2V, "renames", {})
    assert "lightx2v reads no network of WanI2V (tables of names: none)" in message(config)


def test_targets_that_compute_differently_are_refused_together(load: Load) -> None:
    found = message(load("save={save_lightx2v: True, save_diffusers: True, save_path: out}"))
    assert "lightx2v and diffusers compute weight int8 per_channel, act int8 per_token in different ways" in found
    weights = load("save={save_comfyui: True, save_diffusers: True, save_path: out}", "quant.video_gen.act=null")
    assert config_problems(weights) == []


def test_a_target_with_one_scheme_for_all_layers_refuses_a_second_one(load: Load) -> None:
    static = "{bit: e4m3, granularity: per_tensor, static: True}"
    older = load(
        "save={comfyui: {format: scaled_fp8}, path: out}",
        "quant.video_gen.weight={bit: e4m3, granularity: per_tensor}",
        "quant.video_gen.act=null",
        f"quant.video_gen.rules=[{{match: '*ffn*', act: {static}}}]",
    )
    assert "one scheme for all layers; found act fp8_e4m3 per_tensor static here and act float above" in message(older)
    newer = older.model_copy(update={"save": SaveConfig.model_validate({"path": Path("out"), "comfyui": {}})})
    assert config_problems(newer) == []
