"""The folder for stock diffusers, by a reader of its own: what torchao's classes are given, and the values judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from llmc.export.diffusers.exporter import Diffusers, float_linears
from llmc.numerics.quantize import quantize
from llmc.numerics.spec import LayerSpec, TensorSpec
from llmc.policy.rules import Policy
from tests.export.tiny import finished_part, spec, stock_output, weights_alone, with_float


def read(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors of the file, and its metadata: the class of every tensor of the network."""
    with safe_open(folder / "transformer" / "diffusion_pytorch_model.safetensors", "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    return tensors, {name: json.loads(metadata[name]) for name in json.loads(metadata["tensor_names"])}


def dequantized(tensors: dict[str, torch.Tensor], classes: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The float weights that the file stands for, in the original basis."""
    weights = {}
    for name, about in classes.items():
        if about["_type"] == "Tensor":
            weights[name] = tensors[name]
            continue
        layer = name.removesuffix(".weight")
        part = {attribute: tensors[f"{layer}._weight_{attribute}"] for attribute in about["_tensor_data_names"]}
        weights[name] = part["qdata"].float() * part["scale"] * part.get("act_pre_scale", torch.ones(()))
    return weights


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("act", [True, False], ids=["with acts", "weights alone"])
@pytest.mark.parametrize("name", ["int8", "fp8_e4m3"])
def test_every_layer_names_its_class_and_is_what_was_judged(
    folder: Path, tmp_path: Path, name: str, act: bool, dtype: str
) -> None:
    part, network = finished_part(folder, Diffusers(), Policy(spec(name, act)), dtype)
    Diffusers().write(part, tmp_path)
    tensors, classes = read(tmp_path)
    assert classes.keys() == part.module.state_dict().keys()
    seen = set()
    for layer_name, layer in network.layers.items():
        about = classes[f"{layer_name}.weight"]
        assert about["_type"] == {"int8": "Int8Tensor", "fp8_e4m3": "Float8Tensor"}[name]
        data = about["_data"]
        assert data["block_size"] == [1, layer.in_features]
        assert data["dtype"] == {"_type": "torch.dtype", "_data": dtype}
        assert (data["act_quant_kwargs"] is not None) == act
        if act:
            assert data["act_quant_kwargs"]["_data"]["granularity"] == {"_type": "PerRow", "_data": {"dim": -1}}
        codes, scale = tensors[f"{layer_name}._weight_qdata"], tensors[f"{layer_name}._weight_scale"]
        assert codes.dtype == {"int8": torch.int8, "fp8_e4m3": torch.float8_e4m3fn}[name]
        assert (scale.dtype, scale.shape) == (torch.float32, (layer.out_features, 1))
        assert layer.state.rounded is not None
        assert torch.equal(codes.float() * scale, layer.state.rounded.dequantize())
        seen |= {layer_name} if "act_pre_scale" in about["_tensor_data_names"] else set()
    multiplied = {f"blocks.{i}.{n}" for i in (0, 1) for n in (
        "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn2.to_k", "attn2.to_v", "attn2.add_k_proj", "attn2.add_v_proj",
        "ffn.net.0.proj", "ffn.net.2",
    )}  # fmt: skip
    assert seen == (multiplied if name == "int8" else set())
    config = json.loads((tmp_path / "transformer" / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "torchao"
    kind = {"int8": "Int8{}WeightOnly", "fp8_e4m3": "Float8{}WeightOnly"}[name] if not act else {
        "int8": "Int8DynamicActivationInt8Weight", "fp8_e4m3": "Float8DynamicActivationFloat8Weight"}[name]  # fmt: skip
    assert config["quant_type"]["default"]["_type"] == kind.format("") + "Config"
    assert {"proj_out", "condition_embedder.time_proj"} <= set(config["modules_to_not_convert"])
    assert (tmp_path / "model_index.json").is_file() and (tmp_path / "vae" / "config.json").is_file()


@torch.no_grad()
@pytest.mark.parametrize("name", ["int8", "fp8_e4m3"])
def test_the_float_network_computes_what_was_judged(folder: Path, tmp_path: Path, name: str) -> None:
    """Smoothing is in the file: in rows, norms, and for int8 beside the weight; some layers stay float."""
    policy = with_float(Policy(spec(name, True)), "blocks.0.attn2.to_k", "blocks.0.attn2.to_v", "blocks.1.ffn.net.2")
    part, network = finished_part(folder, Diffusers(), policy)
    Diffusers().write(part, tmp_path)
    tensors, classes = read(tmp_path)
    assert classes["blocks.1.ffn.net.2.weight"] == {"_type": "Tensor"}
    found = stock_output(part, dequantized(tensors, classes))
    torch.testing.assert_close(found, weights_alone(network), rtol=1e-4, atol=1e-4)


def test_a_float_linear_is_not_named_where_that_would_also_hit_a_quantized_one(folder: Path) -> None:
    """diffusers looks for the name anywhere in a parameter's."""
    policy = with_float(Policy(spec("int8", True)), "blocks.0.ffn.net.2")
    part, _ = finished_part(folder, Diffusers(), policy)
    assert "blocks.0.ffn.net.2" in float_linears(part) and "proj_out" in float_linears(part)
    part.module.register_module("ffn", torch.nn.ModuleDict({"net": torch.nn.Linear(2, 2)}))
    assert "ffn.net" not in float_linears(part)  # "ffn.net." is in blocks.1.ffn.net.2.weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_acts_are_judged_on_the_255_steps_that_torchao_has(dtype: torch.dtype) -> None:
    act = Diffusers().computed(spec("int8", True)).act
    assert act is not None
    x = torch.randn(512, 256, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = quantize(x, act)
    scale = (x.abs().amax(1, keepdim=True) / 127.5).float()  # in the type of x
    assert torch.equal(found.scale, scale)
    assert torch.equal(found.stored().float(), (x.float() * (1 / scale)).round().clamp(-128, 127))
    assert dtype != torch.float32 or found.stored().min() == -128


@pytest.mark.parametrize(
    "wrong",
    [
        LayerSpec(weight=spec("int8", True).weight, act=spec("fp8_e4m3", True).act),
        LayerSpec(weight=TensorSpec(format="int8", granularity="per_tensor")),
        LayerSpec(weight=TensorSpec(format="int8", granularity="per_channel", symmetric=False)),
        LayerSpec(
            weight=spec("int8", True).weight, act=TensorSpec(format="int8", granularity="per_tensor", dynamic=False)
        ),
        spec("int4", False),
        LayerSpec(act=spec("int8", True).act),
    ],
    ids=str,
)
def test_what_torchao_has_no_class_for_is_refused(wrong: LayerSpec) -> None:
    (problem,) = Diffusers().problems(wrong, frozenset({"scale", "rounded"}))
    assert "torchao has int8 or fp8_e4m3 weights" in problem and f"found {wrong}" in problem
    for left in ("rotate", "lowrank"):
        assert Diffusers().problems(spec("int8", True), frozenset({left}))
    assert Diffusers().problems(LayerSpec(), frozenset({"scale"})) == []
