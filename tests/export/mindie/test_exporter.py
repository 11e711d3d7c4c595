"""Whole networks for MindIE-SD: files, names, types, what is refused; a stock network with its linears replaced."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from llmc.__main__ import main
from llmc.algorithms.timestep import Timestep
from llmc.checks.layers import check_layers
from llmc.config.save import SaveConfig
from llmc.engine.network import prepare
from llmc.errors import UnsupportedSpec
from llmc.export.mindie.exporter import MindIE
from llmc.export.mindie.names import fused_names, runtime_linears, table_of
from llmc.export.mindie.types import layer_problem
from llmc.export.part import FinishedPart
from llmc.layers.linear import in_mode
from llmc.layers.steps import at_step
from llmc.layers.target import Carrier
from llmc.layers.transforms import Scale
from llmc.models.base import adapters
from llmc.models.wan import WanI2V
from llmc.numerics.spec import LayerSpec, TensorSpec
from llmc.policy.rules import Policy, Rule
from tests.end_to_end.small_run import small_config
from tests.export.mindie import reader as mindie_reader
from tests.export.tiny import SMOOTH, finished_part, output
from tests.slices import FAMILIES, by_default
from tests.tiny_pipelines import TINY

INT8 = TensorSpec(format="int8", granularity="per_channel")
INT4 = TensorSpec(format="int4", granularity="per_channel")
W8A8_DYNAMIC = LayerSpec(weight=INT8, act=TensorSpec(format="int8", granularity="per_token"))
W8A8 = LayerSpec(weight=INT8, act=TensorSpec(format="int8", granularity="per_tensor", dynamic=False))
ASYMMETRIC = LayerSpec(
    weight=INT8, act=TensorSpec(format="int8", granularity="per_tensor", dynamic=False, symmetric=False)
)
W8A16, W4A16 = LayerSpec(weight=INT8), LayerSpec(weight=INT4)
W4A4_DYNAMIC = LayerSpec(weight=INT4, act=TensorSpec(format="int4", granularity="per_token"))
MXFP8 = LayerSpec(weight=TensorSpec(format="mxfp8"), act=TensorSpec(format="mxfp8"))
MXFP4 = LayerSpec(weight=TensorSpec(format="mxfp4"), act=TensorSpec(format="mxfp4"))
A5 = MindIE(soc="a5")
WAN_NAMES = {  # a few of them written down, so that no table is both the writer's and the reader's
    "blocks.0.attn1.to_q": "blocks.0.self_attn.q",
    "blocks.1.attn1.to_out.0": "blocks.1.self_attn.o",
    "blocks.0.attn2.add_k_proj": "blocks.0.cross_attn.k_img",
    "blocks.1.ffn.net.0.proj": "blocks.1.ffn.0",
}
HUNYUAN_NAMES = {
    f"double_blocks.{i}.{stream}_{name}"
    for i in range(2) for stream in ("img", "txt") for name in ("attn_qkv", "attn_proj", "mlp.fc1", "mlp.fc2")
} | {f"single_blocks.{i}.{name}" for i in range(2) for name in ("linear1", "linear2")}  # fmt: skip


class Replaced(nn.Module):
    """What stands in the place of a linear."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.function(x.reshape(-1, x.shape[-1])).to(x.dtype).reshape(*x.shape[:-1], -1)
        return y


def replaced(part: FinishedPart, says: dict[str, str], tensors: dict[str, torch.Tensor], step: int | None) -> nn.Module:
    """The float network as diffusers loads it, its linears replaced as MindIE replaces them."""
    network: nn.Module = type(part.module).from_pretrained(part.source / "transformer")  # type: ignore[attr-defined]
    linears = {linear.name: linear.sources for linear in runtime_linears(part)}
    for module, sources in linears.items():
        quant_type = mindie_reader.type_of(says, module)
        assert quant_type is not None and len(sources) == 1
        own = step if quant_type == "W8A8_TIMESTEP" else None
        layer = mindie_reader.linear(tensors, module, quant_type, torch.bfloat16, static_step=own)
        network.set_submodule(sources[0], Replaced(layer))
    return network


@pytest.mark.parametrize(
    ("written", "version"), [(2.3, "2.3"), ("2.3", "2.3"), (3, 3), ("3", 3), ("2026-07", "2026-07")]
)
def test_a_version_may_be_written_with_quotes_or_without(written: object, version: object) -> None:
    assert MindIE.model_validate({"mindie_version": written}).mindie_version == version


@torch.no_grad()
@pytest.mark.parametrize(
    ("exporter", "spec", "quant_type"),
    [
        (MindIE(), W8A8_DYNAMIC, "w8a8_dynamic"),
        (MindIE(), W8A8, "w8a8"),
        (MindIE(), ASYMMETRIC, "w8a8"),
        (MindIE(), W8A16, "w8a16"),
        (MindIE(), W4A16, "w4a16"),
        (A5, MXFP8, "w8a8_mxfp8"),
        (A5, MXFP4, "w4a4_mxfp4"),
    ],
    ids=["dynamic", "static", "asymmetric", "w8a16", "w4a16", "mxfp8", "mxfp4"],
)
def test_a_float_network_whose_linears_mindie_replaced_computes_what_was_judged(
    folder: Path, tmp_path: Path, exporter: MindIE, spec: LayerSpec, quant_type: str
) -> None:
    """So no smoothing hides in what MindIE does not load: norms, earlier linears, layers that stay float."""
    part, network = finished_part(folder, exporter, Policy(spec, ignored_layers=("blocks.0.attn1.to_v",)))
    exporter.write(part, tmp_path)
    says, tensors = mindie_reader.read(tmp_path, quant_type)
    smoothed = {name for name in tensors if name.endswith(".div.mul_scale")}
    assert len(smoothed) == (0 if spec.act is None else 23)
    with in_mode(network.layers.values(), "quantized"):
        judged = output(network.part.module)
    # a scale that float32 rounding moves across a code's edge changes that code
    torch.testing.assert_close(output(replaced(part, says, tensors, None)), judged, rtol=1e-2, atol=1e-2)


@torch.no_grad()
def test_every_tensor_is_described_and_named_as_the_repository_names_it(folder: Path, tmp_path: Path) -> None:
    part, network = finished_part(folder, MindIE(), Policy(W8A8_DYNAMIC, ignored_layers=("blocks.1.ffn.net.2",)))
    MindIE().write(part, tmp_path)
    says, tensors = mindie_reader.read(tmp_path, "w8a8_dynamic")
    assert says.pop("model_quant_type") == "W8A8_DYNAMIC" and says.keys() == tensors.keys()
    for ours, theirs in WAN_NAMES.items():
        assert says[f"{theirs}.linear.weight"] == "W8A8_DYNAMIC"
        assert says[f"{theirs}.linear.bias"] == says[f"{theirs}.div.mul_scale"] == "FLOAT"
        rounded = network.layers[ours].state.rounded
        assert rounded is not None and tensors[f"{theirs}.linear.weight"].equal(rounded.stored())
    state = part.module.state_dict()
    assert says["blocks.1.ffn.2.weight"] == "FLOAT"
    assert tensors["blocks.1.ffn.2.weight"].equal(network.layers["blocks.1.ffn.net.2"].weight)
    assert tensors["head.head.weight"].equal(state["proj_out.weight"])
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "quant_model_description_w8a8_dynamic.json", "quant_model_weight_w8a8_dynamic.safetensors",
    ]  # fmt: skip
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o640}


@torch.no_grad()
def test_layers_of_several_types_share_one_file_that_most_of_them_name(folder: Path, tmp_path: Path) -> None:
    rules = (Rule("*.ffn.net.2", W8A8_DYNAMIC), Rule("*.attn2.*", W8A16))
    part, _ = finished_part(folder, MindIE(), Policy(W8A8, rules))
    MindIE().write(part, tmp_path / "out")
    says, tensors = mindie_reader.read(tmp_path / "out", "w8a16")  # 12 of 24 layers
    found = {name: mindie_reader.type_of(says, f"blocks.0.{name}") for name in ("ffn.0", "ffn.2", "cross_attn.q")}
    assert found == {"ffn.0": "W8A8", "ffn.2": "W8A8_DYNAMIC", "cross_attn.q": "W8A16"}
    assert "blocks.0.ffn.0.div.mul_scale" in tensors and "blocks.0.cross_attn.q.div.mul_scale" not in tensors
    part, _ = finished_part(folder, MindIE(), Policy(W8A8))
    MindIE().write(part, tmp_path / "out")  # nothing of the other type stays
    assert {file.stem for file in (tmp_path / "out").iterdir()} == {
        "quant_model_description_w8a8",
        "quant_model_weight_w8a8",
    }


@torch.no_grad()
def test_scales_of_single_steps_have_a_row_for_each_and_a_policy_beside_them(folder: Path, tmp_path: Path) -> None:
    exporter, recipe = MindIE(), (*SMOOTH, Timestep(timestep_sep=1))
    part, network = finished_part(folder, exporter, Policy(W8A8), recipe=recipe)
    exporter.write(part, tmp_path)
    says, tensors = mindie_reader.read(tmp_path, "w8a8_timestep")
    layer = network.layers["blocks.0.ffn.net.2"]
    assert layer.state.steps is not None
    assert tensors["blocks.0.ffn.2.linear.input_scale"].flatten().equal(layer.state.steps.scale)
    for step, row in ((0, None), (1, 1)):
        with in_mode(network.layers.values(), "quantized"), at_step(step):
            judged = output(network.part.module)
        torch.testing.assert_close(output(replaced(part, says, tensors, row)), judged, rtol=1e-2, atol=1e-2)
    policy = json.loads((tmp_path / "timestep_policy.json").read_text())
    assert policy["steps"] == 2 and policy["first_static_step"] == 1
    assert policy["register"] == {
        "2.3": 'policy.register(range(1, 2), "static")',
        "3": 'policy.register(range(1, 2), "static")',
        "2026-07": 'policy.register(range(1, 2), "static", target="w8a8_static_linear")',
    }
    code = exporter.usage([part])
    assert "timestep_config=policy" in code and "TimestepManager.set_timestep_idx(step)" in code
    part, _ = finished_part(folder, exporter, Policy(W8A8_DYNAMIC))
    exporter.write(part, tmp_path)
    assert not (tmp_path / "timestep_policy.json").exists()


@torch.no_grad()
def scaled_part(family: str, folder: Path, spec: LayerSpec, exporter: MindIE) -> FinishedPart:
    """The first network of a tiny pipeline, each input scaled at random and each layer rounded."""
    save, _ = TINY[family]
    save(folder / "model")
    adapter = adapters()[family]()
    part = adapter.parts(adapter.load(folder / "model", "float32", "cpu"))[0]
    check_layers(adapter, [part], {"video_gen": (Policy(spec), ())}, [exporter])
    network = prepare(part, Policy(spec), [exporter])
    for number, group in enumerate(network.groups):
        random = torch.Generator().manual_seed(number)
        group.transform(Scale(torch.rand(group.linears[0].in_features, generator=random) + 0.5))
        for layer in group.linears:
            if spec.act is not None and not spec.act.dynamic:
                layer.fix_act_scale(torch.tensor(-1.0 - number), torch.tensor(2.0 + number))
            layer.round()
    return FinishedPart(
        part.name, part.module, network.layers, adapter.renames, folder / "model", {"producer": "test"}, {},
        original=adapter.original(part.module),
    )  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("spec", [W8A8_DYNAMIC, W8A8], ids=["dynamic", "static"])
def test_hunyuan_is_written_with_the_fused_linears_of_its_repository(tmp_path: Path, spec: LayerSpec) -> None:
    part = scaled_part("HunyuanVideo", tmp_path, spec, MindIE())
    MindIE().write(part, tmp_path / "out")
    says, tensors = mindie_reader.read(tmp_path / "out", "w8a8" if spec == W8A8 else "w8a8_dynamic")
    found = {name.removesuffix(".linear.weight") for name in tensors if name.endswith(".linear.weight")}
    quantized = {name for name in found if mindie_reader.type_of(says, name) is not None}
    assert quantized == HUNYUAN_NAMES
    x = torch.randn(5, 64)
    for target, sources in {
        "double_blocks.1.txt_attn_qkv": [f"transformer_blocks.1.attn.add_{name}_proj" for name in "qkv"],
        "single_blocks.0.linear1": [
            f"single_transformer_blocks.0.{n}" for n in (*map("attn.to_{}".format, "qkv"), "proj_mlp")
        ],
    }.items():
        layers = [part.layers[source] for source in sources]
        with in_mode(layers, "quantized"):
            judged = torch.cat([layer(x) for layer in layers], -1)
        quant_type = says[f"{target}.linear.weight"]
        read = mindie_reader.linear(tensors, target, quant_type, torch.bfloat16)
        torch.testing.assert_close(read(x), judged, rtol=1e-5, atol=2e-3)
    # its two inputs lie side by side in one tensor of ours, so that one scale covers both
    assert tensors["single_blocks.0.linear2.div.mul_scale"].shape == (64 + 256,)
    assert tensors["single_blocks.0.linear2.linear.weight"].shape == (64, 64 + 256)
    assert tensors["txt_in.individual_token_refiner.blocks.0.self_attn_qkv.weight"].shape == (192, 64)


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "names"),
    [
        (
            "Flux",
            (
                "transformer_blocks.0.attn.to_q",
                "transformer_blocks.0.attn.to_add_out",
                "single_transformer_blocks.1.proj_out",
            ),
        ),
        ("SD3", ("transformer_blocks.0.attn.add_q_proj", "transformer_blocks.0.ff.net.0.proj")),
        ("OpenSoraPlan", ("transformer_blocks.0.attn1.to_q", "transformer_blocks.1.ff.net.2")),
        ("WanT2V", ("blocks.0.self_attn.q", "blocks.1.cross_attn.o")),
    ],
)
def test_families_are_written_in_the_names_of_the_repository_that_mindie_runs(
    tmp_path: Path, family: str, names: tuple[str, ...]
) -> None:
    part = scaled_part(family, tmp_path, W8A8_DYNAMIC, MindIE())
    MindIE().write(part, tmp_path / "out")
    says, tensors = mindie_reader.read(tmp_path / "out", "w8a8_dynamic")
    assert {says[f"{name}.linear.weight"] for name in names} == {"W8A8_DYNAMIC"}
    assert sum(name.endswith(".mul_scale") for name in tensors) == len(part.layers)
    if family != "WanT2V":  # diffusers' own names: every tensor that the network has is there under its name
        expected = {f"{name.removesuffix(leaf)}.linear{leaf}" if name.removesuffix(leaf) in part.layers else name
                    for name in part.module.state_dict() for leaf in [f".{name.rpartition('.')[2]}"]}  # fmt: skip
        assert expected <= tensors.keys()


@torch.no_grad()
def test_two_experts_have_a_folder_each(tmp_path: Path) -> None:
    part = scaled_part("Wan2T2V", tmp_path, W8A8_DYNAMIC, MindIE())
    high = replace(part, others=("transformer_2",))
    low = replace(part, name="transformer_2", others=("transformer",))
    for each in (high, low):
        MindIE().write(each, tmp_path / "out")
    for name in ("high_noise_model", "low_noise_model"):
        mindie_reader.read(tmp_path / "out" / name, "w8a8_dynamic")
    usage = MindIE().usage([high, low])
    assert "high_noise_model/quant_model_description_w8a8_dynamic.json" in usage and "low_noise_model/" in usage


@pytest.mark.parametrize("family", by_default(FAMILIES, sorted(adapters())))
def test_linears_that_are_one_in_mindie_read_one_tensor(family: str, tmp_path: Path) -> None:
    """So methods give them one scale and one grid, and nothing has to be undone when they are written."""
    TINY[family][0](tmp_path)
    adapter = adapters()[family]()
    for part in adapter.skeleton(tmp_path):
        if not (table := table_of(adapter.renames, adapter.original(part.module))):
            pytest.skip("no names but diffusers' are known")
        group_of = {f"{name}.{linear}": (name, number) for name, block in part.blocks
                    for number, group in enumerate(part.groups(block)) for linear in group.linears}  # fmt: skip
        shapes = {f"{name}.weight": tuple(part.module.get_submodule(name).weight.shape) for name in group_of}
        for sources in fused_names(table, shapes).values():
            assert len({group_of[source] for source in sources}) == 1


def refusal(family: str, folder: Path, policy: Policy, exporter: MindIE) -> str:
    """What is said of a family's layers before anything is loaded."""
    TINY[family][0](folder)
    adapter = adapters()[family]()
    with pytest.raises(UnsupportedSpec) as found:
        check_layers(adapter, adapter.skeleton(folder), {"video_gen": (policy, ())}, [exporter])
    return str(found.value)


@pytest.mark.parametrize(
    ("family", "policy", "exporter", "said"),
    [
        ("WanI2V", Policy(W4A4_DYNAMIC), MindIE(), "has a bias, which W4A4_DYNAMIC in MindIE leaves out"),
        ("HunyuanVideo", Policy(W8A8_DYNAMIC, ignored_layers=("*.attn.to_k",)), MindIE(),
         "one linear there, double_blocks.0.img_attn_qkv, and need one grid; found transformer_blocks.0.attn.to_q: "),
        ("HunyuanVideo", Policy(W8A8, (Rule("*.proj_mlp", W8A8_DYNAMIC),)), MindIE(), "single_blocks.0.linear1"),
        ("WanI2V", Policy(LayerSpec(weight=TensorSpec(format="mxfp4dual"), act=TensorSpec(format="mxfp4dual"))), A5,
         "which must be multiples of 512 and 1"),
    ],
    ids=["bias", "fused", "fused single", "dual"],
)  # fmt: skip
def test_layers_that_mindie_would_compute_otherwise_are_refused(
    tmp_path: Path, family: str, policy: Policy, exporter: MindIE, said: str
) -> None:
    assert said in refusal(family, tmp_path, policy, exporter)


@pytest.mark.parametrize(
    ("spec", "left", "exporter", "said"),
    [
        (MXFP8, set(), MindIE(), "W8A8_MXFP8 runs on a5 only; found `soc: a2`"),
        (W4A4_DYNAMIC, set(), A5, "W4A4_DYNAMIC runs on a2 and a3 only"),
        (W8A8_DYNAMIC, {"lowrank"}, MindIE(), "cannot store what the methods leave on a layer: lowrank"),
        (W8A8_DYNAMIC, {"rotate"}, MindIE(), "cannot store what the methods leave on a layer: rotate"),
        (LayerSpec(weight=INT4, act=W8A8_DYNAMIC.act), set(), MindIE(), "it has no type for weight int4 per_channel"),
        (LayerSpec(act=W8A8_DYNAMIC.act), set(), MindIE(), "it has no type for weight float"),
        (LayerSpec(weight=INT4.model_copy(update={"granularity": "per_group", "group_size": 64})), set(), A5, "W4A16"),
        (LayerSpec(weight=TensorSpec(format="fp8_e4m3", granularity="per_channel")), set(), A5, "it has no type for"),
    ],
)  # fmt: skip
def test_grids_without_a_type_are_refused(spec: LayerSpec, left: set[str], exporter: MindIE, said: str) -> None:
    problems = exporter.problems(spec, frozenset(left))
    assert any(said in problem for problem in problems)


@pytest.mark.parametrize(
    ("quant_type", "layer", "said"),
    [
        ("W4A4_DYNAMIC", nn.Linear(8, 8), "has a bias"),
        ("W4A4_MXFP4", nn.Linear(64, 8, bias=False), "has no bias, without which W4A4_MXFP4 in MindIE stops"),
        ("W8A8_DYNAMIC", nn.Linear(8, 1), "has one output"),
    ],
)
def test_a_layer_that_its_class_cannot_read_is_refused(quant_type: Any, layer: nn.Linear, said: str) -> None:
    problem = layer_problem(quant_type, layer)
    assert problem is not None and said in problem


def test_groups_of_mx_must_pair_up_for_version_3_alone() -> None:
    assert A5.multiples(MXFP8) == (64, 1)
    assert MindIE(soc="a5", mindie_version="2026-07").multiples(MXFP8) == (32, 1)


def test_weights_alone_are_not_smoothed_since_their_class_multiplies_no_input() -> None:
    every: frozenset[Carrier] = frozenset({"linear", "norm", "modulated norm", "nobody"})
    assert MindIE().carries(W8A16) == frozenset() and MindIE().carries(W8A8) == MindIE().carries(LayerSpec()) == every


def test_several_files_are_refused_in_the_words_of_the_peer_that_writes_them() -> None:
    with pytest.raises(ValidationError, match="part_file_size 4 would give several; write 0"):
        SaveConfig.model_validate({"path": "out", "mindie": {"part_file_size": 4}})


def test_check_says_it_all_before_anything_is_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = {"bit": 4, "granularity": "per_channel"}
    quant = {"video_gen": {"method": "RTN", "weight": grid, "act": {"bit": 4, "granularity": "per_token"}}}
    path = small_config(tmp_path, quant=quant, save={"save_lightx2v": False, "save_mindie": True})
    assert main(["check", str(path)]) == 2
    assert "blocks.0.attn1.to_q has a bias, which W4A4_DYNAMIC in MindIE leaves out" in capsys.readouterr().err


def test_scales_at_run_time_are_one_multiplication_that_the_run_keeps_exactly(folder: Path) -> None:
    adapter = WanI2V()
    part = adapter.parts(adapter.load(folder / "model", "float32", "cpu"))[0]
    group = prepare(part, Policy(W8A8_DYNAMIC), [MindIE(dtype="fp16")]).groups[0]
    for factor in (1 / 3, 1e-7):
        group.transform(Scale(torch.full((64,), factor)))
    for layer in group.linears:
        (scale,) = layer.state.transforms
        assert isinstance(scale, Scale)
        assert (scale.multiplier == torch.finfo(torch.float16).tiny).all()
