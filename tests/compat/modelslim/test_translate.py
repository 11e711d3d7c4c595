"""Whole files of the dialect, for real models with fewer blocks: what they become, and what they are refused for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmc.calib.samples import read_samples
from llmc.checks.configuration import config_problems
from llmc.compat.load import load_config, load_document
from llmc.config.schema import Config
from llmc.errors import LlmcError
from llmc.models.base import check_adapter
from tests.compat.modelslim.conftest import GOLDEN, INT8, W8A8

SEED = GOLDEN / "wan2_1_w8a8_dynamic.yaml"
LINEAR = {"type": "linear_quant", "qconfig": W8A8}
MX = {"scope": "per_block", "symmetric": True, "method": "minmax"}
MX8 = {side: {"dtype": "mxfp8", **MX} for side in ("act", "weight")}
MX4 = {side: {"dtype": "mxfp4", **MX} for side in ("act", "weight")}
STATIC = {"act": {**INT8, "scope": "per_tensor"}, "weight": W8A8["weight"]}
Write = Callable[..., Path]


def quant(path: Path, model: Path, *more: str) -> dict[str, Any]:
    values: dict[str, Any] = load_document(path, beside(model, *more)).values["quant"]["video_gen"]
    return values


def beside(model: Path, *more: str) -> list[str]:
    return [f"model.path={model}", "save.save_path=export", *more]


def refusal(path: Path, model: Path, *more: str) -> str:
    with pytest.raises(LlmcError) as refused:
        load_config(path, beside(model, *more))
    return str(refused.value)


def told(path: Path, model: Path, *more: str) -> dict[str | int, str]:
    """The problems of a configuration, by the last key of each."""
    return {problem.keys[-1]: problem.text for problem in config_problems(load_config(path, beside(model, *more)))}


def test_the_published_example_becomes_a_configuration_of_ours(wan_t2v: Path) -> None:
    config = load_config(SEED, beside(wan_t2v))
    assert config.model.type == "WanT2V"
    assert {problem.keys[0] for problem in config_problems(config)} <= {"model"}
    assert (config.calib.num_frames, config.calib.target_width, config.calib.target_height) == (121, 832, 480)
    assert config.calib.prompts[0].startswith("A stylish woman")
    assert str(config.policy().spec_of("blocks.11.ffn.net.2")) == "weight float, act float"
    assert str(config.policy().spec_of("blocks.11.ffn.net.0.proj")) == "weight int8 per_channel, act int8 per_token"
    assert config.source is not None
    assert config.source.notes == (
        "if methods need data, they see the prompt of model_config", "offload_model is not used"
    )  # fmt: skip


def test_what_is_printed_is_the_same_configuration(wan_t2v: Path, tmp_path: Path) -> None:
    printed = tmp_path / "printed.yaml"
    printed.write_text(load_document(SEED, beside(wan_t2v, "base.device=cpu")).as_yaml(), encoding="utf-8")
    ours, theirs = load_config(printed), load_config(SEED, beside(wan_t2v, "base.device=cpu"))
    assert ours.model_dump() == theirs.model_dump() and ours.fingerprint() == theirs.fingerprint()


@pytest.mark.parametrize(
    ("overrides", "options"),
    [
        ([], ["--model_path", "--save_path"]),
        (["model.path=/models/wan"], ["--save_path"]),
        (["save.save_path=/exports/wan"], ["--model_path"]),
        (["model=3", "save.save_path=/exports/wan"], ["--model_path"]),
        (["model.path=[3]", "save.save_path=/exports/wan"], ["--model_path"]),
    ],
)
def test_a_file_alone_is_told_what_is_to_stand_beside_it(overrides: list[str], options: list[str]) -> None:
    with pytest.raises(LlmcError) as refused:
        load_config(SEED, overrides)
    assert [word for word in ("--model_path", "--save_path") if word in str(refused.value)] == options


def test_a_key_that_the_dialect_lacks_is_refused_in_its_line(tmp_path: Path, wan_t2v: Path) -> None:
    path = tmp_path / "typo.yaml"
    path.write_text(SEED.read_text(encoding="utf-8").replace("exclude:", "exlude:"), encoding="utf-8")
    assert refusal(path, wan_t2v) == (
        f"{path}:18: spec.process.0.exlude: unknown key; did you mean exclude? allowed: type, qconfig, include, exclude"
    )


def test_a_processor_of_language_models_is_none(write: Write, wan_t2v: Path) -> None:
    assert "did you mean" in refusal(write([{"type": "quarot"}]), wan_t2v)
    assert "a section with `type` is needed: one of linear_quant" in refusal(write([{"qconfig": W8A8}]), wan_t2v)


def test_several_processors_give_blocks_grids_of_their_own(write: Write, wan22_t2v: Path) -> None:
    first = [f"*blocks.{number}.*" for number in range(5)]
    path = write([
        {"type": "linear_quant", "qconfig": MX4, "exclude": first},
        {"type": "linear_quant", "qconfig": MX8, "include": ["*blocks.{0,1,2,3,4}.*"]},
    ])  # fmt: skip
    values = quant(path, wan22_t2v)
    assert values["weight"] == {"bit": "mxfp4"}
    grids = {"weight": {"bit": "mxfp8"}, "act": {"bit": "mxfp8"}}
    assert values["rules"] == [{"match": f"blocks.{number}.*", **grids} for number in range(5)]
    assert load_document(path, beside(wan22_t2v)).values["save"]["mindie"]["soc"] == "a5"


def test_the_first_processor_that_takes_a_layer_has_it(write: Write, wan_t2v: Path) -> None:
    both = [{"type": "linear_quant", "qconfig": MX8, "include": ["*self_attn*"]}, LINEAR]
    assert quant(write(both), wan_t2v)["weight"]["bit"] == 8
    assert "earlier linear_quants take all" in refusal(write([LINEAR, both[0]]), wan_t2v)


def test_a_processor_that_excludes_all_is_refused(write: Write, wan_t2v: Path) -> None:
    assert "exclude takes all that include gives" in refusal(write([{**LINEAR, "exclude": ["*"]}]), wan_t2v)


def test_names_are_those_of_the_runtime(write: Write, hunyuan: Path, flux: Path) -> None:
    path = write([{**LINEAR, "exclude": ["*img_mod*", "*modulation*", "*fc2*"]}])
    assert quant(path, hunyuan)["rules"] == [
        {"match": "transformer_blocks.*.ff.net.2", "skip": True},
        {"match": "transformer_blocks.*.ff_context.net.2", "skip": True},
    ]
    path = write([{**LINEAR, "include": ["transformer_blocks.*.attn.*"]}])
    skipped = [rule["match"] for rule in quant(path, flux)["rules"]]
    assert "transformer_blocks.*.ff.net.2" in skipped and "single_transformer_blocks.*.proj_out" in skipped


def test_one_layer_of_the_original_is_taken_or_left_as_a_whole(write: Write, hunyuan: Path) -> None:
    values = quant(write([{**LINEAR, "exclude": ["single_blocks.*.linear1"]}]), hunyuan)
    assert [rule["match"] for rule in values["rules"]] == [
        f"single_transformer_blocks.*.{linear}" for linear in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
    ]


def test_a_pattern_that_matches_nothing_is_refused_before_anything_is_loaded(write: Write, wan_t2v: Path) -> None:
    said = refusal(write([{**LINEAR, "exclude": ["*ffn.net.2*"]}]), wan_t2v)
    assert "spec.process.0.exclude.0: the pattern '*ffn.net.2*' matches no layer" in said and ".ffn.2" in said


def test_braces_that_stand_for_too_many_patterns_are_refused_at_once(write: Write, wan_t2v: Path) -> None:
    said = refusal(write([{**LINEAR, "exclude": ["*" + "{a,b}" * 30]}]), wan_t2v)
    assert "spec.process.0.exclude.0: its braces stand for more than 1000 patterns" in said


def test_an_include_of_nothing_is_refused(write: Write, wan_t2v: Path) -> None:
    assert "include: it is []; at least 1 item is needed" in refusal(write([{**LINEAR, "include": []}]), wan_t2v)


def test_linears_that_only_modulate_stay_float_and_are_said(write: Write, hunyuan: Path) -> None:
    document = load_document(write([LINEAR]), beside(hunyuan))
    assert any("linears of blocks that modulate stay float" in note for note in document.notes)
    assert "stays float here" in refusal(write([LINEAR, {**LINEAR, "include": ["*modulation*"]}]), hunyuan)


@pytest.mark.parametrize(
    ("processor", "method"),
    [
        ({"type": "smooth_quant"}, {"name": "SmoothQuant", "alpha": 0.5}),
        ({"type": "iter_smooth"}, {"name": "IterSmooth", "alpha": 0.9, "scale_min": 1e-5}),
        ({"type": "flex_smooth_quant", "alpha": 0.6}, {"name": "FlexSmooth", "alpha": 0.6}),
        ({"type": "flex_awq_ssz", "qconfig": W8A8}, {"name": "FlexSmooth", "beta": 0.0}),
        ({"type": "flex_awq_ssz", "qconfig": W8A8, "alpha": 0.4}, {"name": "FlexSmooth", "alpha": 0.4, "beta": 0.0}),
        ({"type": "awq", "weight_qconfig": W8A8["weight"], "n_grid": 10}, {"name": "Awq", "grid": 10, "clip": False}),
    ],
)
def test_what_smooths_is_a_method_before_rounding(
    processor: dict[str, Any], method: dict[str, Any], write: Write, wan_t2v: Path
) -> None:
    assert quant(write([processor, LINEAR]), wan_t2v)["method"] == [method, {"name": "RTN"}]
    assert quant(write([{"type": "group", "configs": [processor, LINEAR]}]), wan_t2v)["method"][0] == method
    dumped = {"dump_config": {"enable_dump": False}}
    assert f"{method['name']} cannot be had without data" in refusal(write([processor, LINEAR], dumped), wan_t2v)


@pytest.mark.parametrize(
    ("processor", "said"),
    [
        ({"type": "iter_smooth", "symmetric": False}, "scaled, not shifted"),
        ({"type": "iter_smooth", "enable_subgraph_type": ["ov"]}, "nothing would be smoothed"),
        (
            {"type": "iter_smooth", "include": ["*self_attn*"]},
            "leaves out 72 quantized layers, such as blocks.0.cross_attn.q",
        ),
        ({"type": "flex_awq_ssz", "qconfig": STATIC}, "process.0.qconfig: it is another grid"),
        ({"type": "awq", "weight_qconfig": {**INT8, "dtype": "int4", "scope": "per_channel"}}, "write the same here"),
        ({"type": "online_quarot"}, "no fa3_quant asks for that"),
    ],
)
def test_what_has_no_counterpart_is_refused_with_the_reason(
    processor: dict[str, Any], said: str, write: Write, wan_t2v: Path
) -> None:
    assert said in refusal(write([processor, LINEAR]), wan_t2v)


def test_smoothing_may_leave_out_what_stays_float(write: Write, wan_t2v: Path) -> None:
    smooth = {"type": "iter_smooth", "exclude": ["*ffn.2*"]}
    assert quant(write([smooth, {**LINEAR, "exclude": ["*ffn.2*"]}]), wan_t2v)["method"][0]["name"] == "IterSmooth"


def test_static_scales_are_calibrated_the_way_the_file_says(write: Write, wan_t2v: Path) -> None:
    path = write([{"type": "linear_quant", "qconfig": STATIC}])
    assert quant(path, wan_t2v)["act"]["static"] is True
    path = write([{"type": "linear_quant", "qconfig": STATIC}], {"dump_config": {"enable_dump": False}})
    assert "static act scales cannot be had without data" in refusal(path, wan_t2v)
    histogram = {**STATIC, "act": {**STATIC["act"], "method": "histogram"}}
    values = quant(write([{"type": "linear_quant", "qconfig": histogram}]), wan_t2v)
    assert values["method"] == [{"name": "RTN"}, {"name": "Static", "range": "mse"}]


def test_one_method_rounds_all_layers(write: Write, wan_t2v: Path) -> None:
    gptq = {**W8A8, "weight": {**W8A8["weight"], "method": "gptq"}}
    path = write([{**LINEAR, "include": ["*ffn*"]}, {"type": "linear_quant", "qconfig": gptq}])
    assert "spec.process.1.qconfig.weight.method: it is gptq, and minmax" in refusal(path, wan_t2v)


def test_attention_is_taken_by_the_runtimes_names(write: Write, wan22_t2v: Path, hunyuan: Path) -> None:
    fp8 = {"dtype": "fp8_e4m3", "scope": "per_token", "symmetric": True, "method": "minmax"}
    path = write([
        LINEAR,
        {"type": "online_quarot", "include": ["*.self_attn.*"]},
        {"type": "fa3_quant", "qconfig": fp8, "include": ["*self_attn"], "exclude": ["blocks.0.*"]},
    ])  # fmt: skip
    assert quant(path, wan22_t2v)["attention"] == {
        "bit": "e4m3", "include": ["blocks.*.attn1"], "exclude": ["blocks.0.*"], "rotate": "online"
    }  # fmt: skip
    path = write([LINEAR, {"type": "fa3_quant", "include": ["double_blocks*"]}])
    assert load_document(path, beside(hunyuan)).values["save"]["mindie"]["mindie_version"] == "2.3"
    assert "attention" not in told(path, hunyuan)
    found = told(path, hunyuan, "save.mindie_version=3")["attention"]
    assert "read by `mindie_version: 2.3` alone, found 3" in found and "--set save.mindie.mindie_version=2.3" in found
    assert quant(path, hunyuan)["attention"] == {
        "bit": 8, "static": True, "include": ["transformer_blocks.*.attn"]
    }  # fmt: skip


def test_several_fa3_quants_are_rules_for_what_each_takes(write: Write, wan22_t2v: Path) -> None:
    """As in a recipe that msModelSlim ships for Wan2.2, in four bits."""
    fp8, mxfp4 = {**INT8, "dtype": "fp8_e4m3", "scope": "per_token"}, {"dtype": "mxfp4", **MX}
    turned = {"type": "online_quarot", "include": ["*.self_attn.*"]}
    most = {"type": "fa3_quant", "qconfig": mxfp4, "include": ["*self_attn"], "exclude": ["blocks.0*"]}
    first = {"type": "fa3_quant", "qconfig": fp8, "include": ["blocks.0.self_attn"]}
    path = write([{"type": "linear_quant", "qconfig": MX4}, turned, most, first])
    document = load_document(path, beside(wan22_t2v))
    assert document.values["quant"]["video_gen"]["attention"] == {
        "bit": "mxfp4", "rotate": "online", "include": ["blocks.*.attn1"],
        "rules": [{"match": "blocks.0.*", "bit": "e4m3"}],
    }  # fmt: skip
    assert document.values["save"] == {
        "mindie": {"soc": "a5", "mindie_version": "2026-07"}, "path": "export"
    }  # fmt: skip
    assert "mindie_version is 2026-07, which alone reads attention in mxfp4 and fp8_e4m3" in document.notes
    assert {problem.keys[0] for problem in config_problems(load_config(path, beside(wan22_t2v)))} <= {"model"}
    path = write([LINEAR, {**turned, "include": ["blocks.0.*"]}, {**most, "exclude": []}])
    assert quant(path, wan22_t2v)["attention"]["rules"] == [{"match": "blocks.0.*", "bit": "mxfp4", "rotate": "online"}]
    path = write([LINEAR, most, {**first, "include": ["blocks.1.self_attn"]}])
    assert "it gives blocks.1.self_attn another grid than an earlier fa3_quant does" in refusal(path, wan22_t2v)


def test_a_size_a_schedule_and_a_task_are_what_the_repositories_call_them(
    write: Write, hunyuan: Path, wan_t2v: Path
) -> None:
    said = {"video_size": [544, 960], "video_length": 65, "infer_steps": 20, "embedded_cfg_scale": 5.0, "seed": 7}
    calib = load_document(write([LINEAR], {"inference_config": said}), beside(hunyuan)).values["calib"]
    keys = ("target_height", "target_width", "num_frames", "sample_steps", "guidance_scale", "seed")
    assert [calib[key] for key in keys] == [544, 960, 65, 20, 5.0, 7]
    said = {"size": "480*832", "frame_num": 17, "sample_steps": 10, "sample_shift": 3.0, "task": "t2v-14B"}
    calib = load_document(write([LINEAR], {"inference_config": said}), beside(wan_t2v)).values["calib"]
    assert (calib["target_width"], calib["target_height"], calib["sample_shift"]) == (480, 832, 3.0)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_config": {"frame_num": "many"}}, "model_config.frame_num: it is many; a whole number"),
        ({"inference_config": {"frames": 3}}, "inference_config.frames: unknown key"),
        ({"inference_config": {}, "model_config": {}}, "keep inference_config"),
        ({"inference_config": {"task": "i2v-14B"}}, "the folder holds a WanT2V"),
        ({"inference_config": {"task": "video"}}, "it is video; "),
        ({"inference_config": {"size": "720p"}}, 'such as "1280*720"'),
        ({"dump_config": {"capture_mode": "kwargs"}}, "allowed: args"),
    ],
)
def test_what_is_wrong_with_the_float_run_is_said(
    config: dict[str, Any], said: str, write: Write, wan_t2v: Path
) -> None:
    assert said in refusal(write([LINEAR], config), wan_t2v)


def test_a_key_of_the_free_section_that_is_not_known_is_said(write: Write, wan_t2v: Path) -> None:
    config = {"model_config": {"t5_cpu": True}, "dump_config": {"dump_data_dir": "dump"}}
    notes = load_document(write([LINEAR], config), beside(wan_t2v)).notes
    assert "model_config.t5_cpu is not used: it is not known here" in notes
    assert any(note.startswith("dump_data_dir is not used") for note in notes)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"save": [{"type": "mindie_format_saver", "part_file_size": 4}]}, "MindIE-SD looks for one file"),
        ({"save": [{"type": "ascendv1_saver"}]}, "allowed: mindie_format_saver"),
        ({"prior": [{"process": []}]}, "leave prior out"),
    ],
)
def test_an_export_that_nothing_could_read_is_refused(
    spec: dict[str, Any], said: str, write: Write, wan_t2v: Path
) -> None:
    assert said in refusal(write([LINEAR], **spec), wan_t2v)


def test_one_file_is_written_where_nothing_is_said_of_parts(write: Write, wan_t2v: Path) -> None:
    path = write([LINEAR], save=[{"type": "mindie_format_saver"}])
    assert any("part_file_size is not given" in note for note in load_document(path, beside(wan_t2v)).notes)


def test_layer_by_layer_means_streamed(write: Write, wan_t2v: Path) -> None:
    assert load_config(write([LINEAR], runner="layer_wise"), beside(wan_t2v)).calib.streamed


def test_samples_of_ones_own_are_read(write: Write, wan_t2v: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    path = write([LINEAR], dataset=str(tmp_path / "mine"))
    assert load_config(path, beside(wan_t2v)).calib.path == tmp_path / "mine"
    (tmp_path / "mine" / "index.jsonl").write_text('{"text": "a fox in the snow"}\n')
    calib = load_config(path, beside(wan_t2v)).calib
    assert [sample.prompt for sample in read_samples(calib.path, needs_image=False)] == ["a fox in the snow"]
    notes = load_document(write([LINEAR], dataset="wan2_2_t2v"), beside(wan_t2v)).notes
    assert any("ships with msModelSlim alone" in note for note in notes)


def test_anchors_may_stand_above_and_nothing_else(tmp_path: Path, wan_t2v: Path) -> None:
    text = SEED.read_text(encoding="utf-8").replace('exclude: ["*ffn.2*"]', "exclude: *left")
    path = tmp_path / "anchors.yaml"
    path.write_text(text.replace("\nspec:", '\nleft_out: &left ["*ffn.2*"]\nspec:', 1), encoding="utf-8")
    assert quant(path, wan_t2v)["rules"] == [{"match": "blocks.*.ffn.net.2", "skip": True}]
    path.write_text(SEED.read_text(encoding="utf-8") + '\nleft_out: ["*ffn.0*"]\n', encoding="utf-8")
    assert "left_out: unknown key" in refusal(path, wan_t2v)


def test_values_of_both_sides_can_be_replaced(wan_t2v: Path) -> None:
    more = ("spec.process.0.exclude=[]", "calib.sample_steps=3", "quant.video_gen.method=[GPTQ]")
    config = load_config(SEED, beside(wan_t2v, *more))
    assert config.calib.sample_steps == 3 and config.recipe()[0].name == "GPTQ"
    assert config.quant.video_gen.rules == ()


@pytest.mark.parametrize(
    ("family", "adapter"), [("Wan2_1", "WanT2V"), ("Wan2.1", "WanT2V"), ("WanT2V", "WanT2V"), (None, "WanT2V")]
)
def test_the_folder_tells_the_variant_of_a_family(family: str | None, adapter: str, wan_t2v: Path) -> None:
    given = beside(wan_t2v, *([f"model.type={family}"] if family else []))
    assert load_document(SEED, given).values["model"]["type"] == adapter


def test_a_folder_of_another_family_is_refused_with_its_own(wan_t2v: Path, wan22_t2v: Path) -> None:
    assert "it is Wan2T2V" in refusal(SEED, wan22_t2v, "model.type=Wan2_1")
    assert "no model is called Wan3; did you mean" in refusal(SEED, wan_t2v, "model.type=Wan3")
    assert "no model is called [Wan2_1]; did you mean" in refusal(SEED, wan_t2v, "model.type=[Wan2_1]")
    assert "write `model.type: WanT2V`" in refusal(SEED, wan_t2v, "model.type=HunyuanVideo")


def test_a_family_can_stand_in_a_file_of_ours_too(wan22_t2v: Path) -> None:
    path = Path(__file__).parents[3] / "configs/quantization/video_gen/wan22_t2v/mindie_w8a8_dynamic.yaml"
    config: Config = load_config(path, [f"model.path={wan22_t2v}", "model.type=Wan2_2"])
    check_adapter(type(config.model.adapter()), wan22_t2v)
    assert config.model.type == "Wan2T2V"


def test_an_empty_dialect_is_refused(tmp_path: Path, wan_t2v: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text(yaml.safe_dump({"apiversion": "multimodal_sd_modelslim_v1"}), encoding="utf-8")
    assert "spec: the key is missing" in refusal(path, wan_t2v)
    path.write_text(yaml.safe_dump({"apiversion": "modelslim_v1", "spec": {}}), encoding="utf-8")
    assert "allowed: multimodal_sd_modelslim_v1" in refusal(path, wan_t2v)
