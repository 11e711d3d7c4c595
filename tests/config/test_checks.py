"""What is known to fail before a model is loaded."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llmc.config.checks import check_config, config_problems, order_problems
from llmc.config.load import load_config
from llmc.config.schema import Config
from llmc.errors import ConfigError
from llmc.models.wan import WanI2V

ROOT = Path(__file__).parents[2]
Write = Callable[[str | bytes], Path]
Load = Callable[..., Config]


@pytest.fixture
def load(good: str, write: Write, tmp_path: Path) -> Load:
    """The good configuration with overrides, writing into the test's own folder."""
    return lambda *overrides: load_config(write(good), [f"save.save_path={tmp_path}/out", *overrides])


def message(config: Config) -> str:
    with pytest.raises(ConfigError) as caught:
        check_config(config)
    return str(caught.value)


def test_the_embedded_configuration_has_no_problems(load: Load) -> None:
    assert config_problems(load()) == []


def test_a_model_that_is_not_there_is_tied_to_its_line(good: str, write: Write) -> None:
    config = load_config(write(good.replace("../assets/tiny_wan_i2v/", "../assets/tiny/")))
    line = good[: good.index("../assets/tiny_wan_i2v/")].count("\n") + 1
    assert f"config.yaml:{line}: model.path: ../assets/tiny does not exist (looked for " in message(config)


def test_a_folder_without_a_pipeline_is_refused(load: Load, tmp_path: Path) -> None:
    assert "model.path:" in message(load(f"model.path={tmp_path}")) and "model_index.json" in message(
        load(f"model.path={tmp_path}")
    )


def test_a_model_of_another_family_is_refused(load: Load, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    assert "FluxPipeline" in message(load(f"model.path={tmp_path}"))


def test_samples_that_cannot_be_used_are_refused(load: Load, tmp_path: Path) -> None:
    assert "eval.path:" in message(load(f"eval.path={tmp_path}"))
    (tmp_path / "samples.json").write_text('[{"prompt": "a", "image": "gone.png"}]')
    assert "gone.png" in message(load(f"calib.path={tmp_path}"))


def test_samples_of_another_kind_are_refused(load: Load) -> None:
    assert "--set calib.name=t2v: calib.name: it is t2v" in message(load("calib.name=t2v"))


def test_sizes_that_the_family_cannot_make_name_the_nearest(load: Load) -> None:
    found = message(load("calib.target_height=70", "eval.num_frames=16"))
    assert "calib.target_height: it is 70" in found and "64" in found
    assert "eval.num_frames: it is 16" in found and "4k + 1" in found


def test_a_video_needs_its_number_of_frames(good: str, write: Write) -> None:
    text = good.replace("    num_frames: 17\n", "", 1)
    assert text != good and "calib.num_frames: the key is missing; give the frames" in message(load_config(write(text)))


def test_images_have_no_frames_and_are_not_judged_by_motion() -> None:
    flux = ROOT / "configs/quantization/video_gen/flux/smoothquant_w_a.yaml"
    assert [metric.name for metric in load_config(flux).metrics()] == ["psnr", "ssim"]
    found = message(load_config(flux, ["calib.num_frames=17", "eval.metrics=[psnr, vmaf]", "eval.name=t2v"]))
    assert "calib.num_frames: it is 17; Flux makes images: leave it out" in found
    assert "eval.metrics.1: vmaf compares videos, and Flux makes images" in found
    assert "eval.name: it is t2v; Flux is of the kind t2i" in found


def test_a_transformer_of_its_own_must_be_there(load: Load, tmp_path: Path) -> None:
    assert "model.transformer:" in message(load(f"model.transformer={tmp_path}/flux1-dev.safetensors"))


def test_a_grid_that_the_target_cannot_store_is_refused(load: Load) -> None:
    assert "lightx2v was asked for in `save`" in message(load("quant.video_gen.weight.bit=4"))


def test_the_output_folder_may_hold_nothing_foreign(load: Load, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert config_problems(load("save.overwrite=False")) == []
    (out / "thesis.txt").write_text("years of work")
    assert "thesis.txt, which this configuration did not write" in message(load("save.overwrite=False"))
    assert config_problems(load("save.overwrite=True")) == []


def test_an_export_of_the_same_work_may_be_written_again(load: Load, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    fingerprint = load().fingerprint()
    save_file({"a": torch.zeros(1)}, out / "diffusion_pytorch_model.safetensors", {"fingerprint": fingerprint})
    assert config_problems(load("save.overwrite=False")) == []
    assert "did not write" in message(load("save.overwrite=False", "base.seed=1"))


def test_the_float_model_is_never_written_over(load: Load) -> None:
    config = load()
    assert "the folder of the float model" in message(
        load(f"save.save_path={config.model.path}", "save.overwrite=True")
    )


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
        "save={save_comfyui: True, comfy_format: scaled_fp8, save_path: out}",
        "quant.video_gen.weight={bit: e4m3, granularity: per_tensor}",
        "quant.video_gen.act=null",
        f"quant.video_gen.rules=[{{match: '*ffn*', act: {static}}}]",
    )
    assert "one scheme for all layers; found act fp8_e4m3 per_tensor static here and act float above" in message(older)
    newer = older.model_copy(update={"save": older.save.model_copy(update={"comfy_format": "comfy_quant"})})
    assert config_problems(newer) == []
