"""The scripted form is the same engine: the same tensors as a run with the same recipe and calls, to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llmc.calib.samples import read_samples
from llmc.compat.modelslim.scripted.quantize import disabled_layers
from llmc.config.schema import Config
from llmc.errors import AdapterError, CalibrationError, ConfigError, UnsupportedSpec
from llmc.layers.linear import QuantLinear
from llmc.models.base import adapters
from llmc.run import run
from llmc.scripted import (
    FA3ProcessorConfig,
    M3ProcessorConfig,
    M4ProcessorConfig,
    M6Config,
    M6ProcessorConfig,
    SaveProcessorConfig,
    SessionConfig,
    W8A8DynamicProcessorConfig,
    W8A8ProcessorConfig,
    W8A8QuantConfig,
    W8A8TimeStepProcessorConfig,
    W8A8TimeStepQuantConfig,
    get_disable_layer_names,
    quant_model,
)
from llmc.verify.run import verify
from tests.compat.modelslim.scripted.conftest import SAMPLING, Load
from tests.slices import by_default
from tests.tiny_pipelines import save_samples

BLOCKS, FLOAT = ("*double_blocks*", "*single_blocks*"), ("*img_mod*", "*modulation*", "*fc2*")
WEIGHT = {"bit": 8, "granularity": "per_channel"}
PER_TOKEN = {"bit": 8, "granularity": "per_token"}
STATIC = {"bit": 8, "granularity": "per_tensor", "symmetric": False, "static": True}
RECIPES: dict[str, tuple[Callable[[list[str]], dict[str, Any]], dict[str, Any]]] = {
    "w8a8_dynamic": (
        lambda names: {"w8a8_dynamic": W8A8DynamicProcessorConfig(disable_names=names)},
        {"method": "RTN", "weight": WEIGHT, "act": PER_TOKEN},
    ),
    "m3, w8a8_dynamic": (
        lambda names: {"m3": M3ProcessorConfig(), "w8a8_dynamic": W8A8DynamicProcessorConfig(disable_names=names)},
        {"method": {"name": "Awq", "clip": False}, "weight": WEIGHT, "act": PER_TOKEN},
    ),
    "m4, w8a8_dynamic": (
        lambda names: {"m4": M4ProcessorConfig(), "w8a8_dynamic": W8A8DynamicProcessorConfig(disable_names=names)},
        {"method": {"name": "IterSmooth", "alpha": 0.5}, "weight": WEIGHT, "act": PER_TOKEN},
    ),
    "m6, w8a8_dynamic": (
        lambda names: {
            "m6": M6ProcessorConfig(cfg=M6Config(alpha=0.7)),
            "w8a8_dynamic": W8A8DynamicProcessorConfig(disable_names=names),
        },
        {"method": {"name": "FlexSmooth", "alpha": 0.7}, "weight": WEIGHT, "act": PER_TOKEN},
    ),
    "fa3, w8a8_dynamic": (
        lambda names: {
            "fa3": FA3ProcessorConfig(),
            "w8a8_dynamic": W8A8DynamicProcessorConfig(disable_names=names),
        },
        {"method": "RTN", "weight": WEIGHT, "act": PER_TOKEN, "attention": {"bit": 8, "static": True}},
    ),
    "w8a8": (
        lambda names: {
            "w8a8": W8A8ProcessorConfig(cfg=W8A8QuantConfig(act_method="histogram"), disable_names=names)
        },
        {"method": {"name": "Static", "range": "mse"}, "weight": WEIGHT, "act": STATIC},
    ),
    "w8a8_timestep": (
        lambda names: {"w8a8_timestep": W8A8TimeStepProcessorConfig(disable_names=names, timestep_sep=1)},
        {"method": {"name": "Timestep", "timestep_sep": 1, "range": "absmax"}, "weight": WEIGHT, "act": STATIC},
    ),
    "m3, w8a8_timestep": (
        lambda names: {
            "m3": M3ProcessorConfig(),
            "w8a8_timestep": W8A8TimeStepProcessorConfig(
                cfg=W8A8TimeStepQuantConfig(act_method="mix"), disable_names=names, timestep_sep=0
            ),
        },
        {
            "method": [{"name": "Awq", "clip": False}, {"name": "Timestep", "range": "output"}],
            "weight": WEIGHT,
            "act": STATIC,
        },
    ),
}  # fmt: skip


BY_DEFAULT = [
    "m6, w8a8_dynamic",
    "fa3, w8a8_dynamic",
    "w8a8",
    "m3, w8a8_timestep",
]  # each kind of act scale, and attention


@pytest.mark.parametrize("name", by_default(BY_DEFAULT, RECIPES))
def test_a_script_and_a_run_write_the_same_bits(
    name: str, hunyuan: Path, load: Load, dumped: Callable[..., list[Any]], tmp_path: Path
) -> None:
    processors, quant = RECIPES[name]
    model = load().transformer
    names = get_disable_layer_names(model, layer_include=BLOCKS, layer_exclude=FLOAT)
    ignored = disabled_layers(adapters()["HunyuanVideo"]().part_of(model), names)
    save_samples(tmp_path / "samples", 2)
    size = {"target_height": SAMPLING.height, "target_width": SAMPLING.width, "num_frames": SAMPLING.num_frames}
    config = {
        "base": {"seed": 7, "run_dir": tmp_path / "run", "device": "cpu"},
        "model": {"type": "HunyuanVideo", "path": hunyuan},
        "calib": {"name": "t2v", "path": tmp_path / "samples", "guidance_scale": SAMPLING.guidance_scale,
                  "sample_steps": SAMPLING.steps, **size},
        "quant": {"video_gen": quant},
        "ignored_layers": {"layer_names": ignored},
        "save": {
            "path": tmp_path / "export",
            "mindie": {"mindie_version": "2.3" if "fa3" in name else 3},
        },
    }  # fmt: skip
    run(Config.model_validate(config))

    prompts = [sample.prompt for sample in read_samples(tmp_path / "samples", False)]
    assert prompts == ["a red circle moving left", "a green square moving right"]  # which `dumped` has
    save = SaveProcessorConfig(output_path=tmp_path / "scripted")
    session = SessionConfig(
        processor_cfg_map={**processors(names), "save": save},
        calib_data=dumped("timestep" if "timestep" in name else "args"),
    )
    session.model_validate(session)
    with torch.autocast("cpu", torch.bfloat16, enabled="w8a8_timestep" in name):  # as the guide does, for nothing
        quant_model(model, session)

    (ours,) = (tmp_path / "scripted").glob("*.safetensors")
    (theirs,) = (tmp_path / "export").glob("*.safetensors")
    assert ours.name == theirs.name
    one, other = load_file(ours), load_file(theirs)
    assert one.keys() == other.keys()
    assert [name for name in one if not one[name].equal(other[name])] == []
    said = [next(file.parent.glob("quant_model_description*")).read_text() for file in (ours, theirs)]
    assert said[0] == said[1] and "double_blocks.0.img_mlp.fc2.weight" in said[0]
    types = json.loads(said[0])
    assert types["double_blocks.0.img_mlp.fc2.weight"] == "FLOAT"


def test_the_model_then_computes_as_quantized(load: Load, dumped: Callable[..., list[Any]]) -> None:
    model, calls = load().transformer, dumped("kwargs")
    with torch.no_grad():
        before = model(**calls[0])[0]
        quant_model(model, SessionConfig(processor_cfg_map={"w8a8_dynamic": W8A8DynamicProcessorConfig()}))
        after = model(**calls[0])[0]
    assert 1e-4 < (after - before).norm() / before.norm() < 0.05
    layers = [module for module in model.modules() if isinstance(module, QuantLinear)]
    assert len(layers) == 2 * 12 + 2 * 5 and {layer.mode for layer in layers} == {"quantized"}
    with pytest.raises(ConfigError, match="quantized already; load its float weights again"):
        quant_model(model, SessionConfig(processor_cfg_map={"w8a8_dynamic": W8A8DynamicProcessorConfig()}))


def test_what_a_script_wrote_is_verified_and_says_for_whom_it_is(
    hunyuan: Path, load: Load, dumped: Callable[..., list[Any]], tmp_path: Path
) -> None:
    save = SaveProcessorConfig(
        output_path=tmp_path, json_name="quant_model_description.json", mindie_version="2026-07", soc="a3"
    )
    quant_model(load().transformer, SessionConfig(
        processor_cfg_map={"m4": M4ProcessorConfig(), "w8a8_dynamic": W8A8DynamicProcessorConfig(), "save": save},
        calib_data=dumped("kwargs"),
    ))  # fmt: skip
    report = verify(tmp_path, float_model=hunyuan)
    found = {v.rule: v.note for v in report.verdicts if v.status != "pass"}
    assert not report.failed and "against the judged weights" in found
    assert set(found.values()) == {"no run is given"}
    manifest = json.loads((tmp_path / "llmc_manifest.json").read_text())
    assert (manifest["mindie_version"], manifest["soc"]) == ("2026-07", "a3")
    assert all(layer["error"] < 1e-2 for layer in manifest["layers"]["transformer"].values())
    assert 'quantize(model, "quant_model_description.json"' in (tmp_path / "README.md").read_text()


def test_what_is_handed_over_in_place_of_model_or_session_is_refused(load: Load) -> None:
    session = SessionConfig(processor_cfg_map={"w8a8_dynamic": W8A8DynamicProcessorConfig()})
    with pytest.raises(AdapterError, match=r"HunyuanVideoPipeline, .* hand over the transformer"):
        quant_model(load(), session)
    with pytest.raises(ConfigError, match="session_cfg is of the type dict; give a SessionConfig"):
        quant_model(load().transformer, session.model_dump())  # type: ignore[arg-type]


def test_layers_that_mindie_has_as_one_are_disabled_together(load: Load, tmp_path: Path) -> None:
    names = ["transformer_blocks.0.attn.to_q"]
    processors = {"w8a8_dynamic": W8A8DynamicProcessorConfig(disable_names=names)}
    save = {"save": SaveProcessorConfig(output_path=tmp_path)}
    with pytest.raises(UnsupportedSpec, match=r"(?s)are one linear there.* have all of them in disable_names, or none"):
        quant_model(load().transformer, SessionConfig(processor_cfg_map=processors | save))
    quant_model(load().transformer, SessionConfig(processor_cfg_map=processors))


def test_what_reads_calls_asks_for_them(load: Load) -> None:
    session = SessionConfig(processor_cfg_map={"w8a8": W8A8ProcessorConfig()})
    with pytest.raises(CalibrationError, match="calib_data is empty, and Static reads"):
        quant_model(load().transformer, session)


def test_scales_of_each_step_need_calls_that_tell_their_step(load: Load, dumped: Callable[..., list[Any]]) -> None:
    processors = {"w8a8_timestep": W8A8TimeStepProcessorConfig(timestep_sep=1)}
    with pytest.raises(CalibrationError, match=r"calib_data\[0\] does not tell its denoising step"):
        quant_model(load().transformer, SessionConfig(processor_cfg_map=processors, calib_data=dumped("args")))


def test_disabling_every_linear_is_refused_unless_attention_is_quantized(
    load: Load, dumped: Callable[..., list[Any]]
) -> None:
    model = load().transformer
    disabled = W8A8DynamicProcessorConfig(disable_names=get_disable_layer_names(model, layer_exclude="*"))
    with pytest.raises(ConfigError, match="disable_names has all 34 linears that can be quantized, so that nothing"):
        quant_model(model, SessionConfig(processor_cfg_map={"w8a8_dynamic": disabled}))
    processors = {"w8a8_dynamic": disabled, "fa3": FA3ProcessorConfig()}
    quant_model(model, SessionConfig(processor_cfg_map=processors, calib_data=dumped("kwargs")))


def test_a_disabled_name_that_no_linear_has_is_refused(load: Load) -> None:
    processors = {"w8a8_dynamic": W8A8DynamicProcessorConfig(disable_names=["*fc2*"])}
    with pytest.raises(ConfigError, match=r"the name '\*fc2\*' matches no linear of the model; they are named like"):
        quant_model(load().transformer, SessionConfig(processor_cfg_map=processors))
