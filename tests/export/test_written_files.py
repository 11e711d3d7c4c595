"""What is exported is what was judged: every file of every target, read back and held against the network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llmc.algorithms.base import Algorithm
from llmc.algorithms.rtn import RTN
from llmc.calib.samples import read_samples
from llmc.convert.rename import Renamer
from llmc.engine.calibrate import CalibrationPlan, calibrate
from llmc.engine.network import Network, prepare
from llmc.export.base import Exporter
from llmc.export.fake.exporter import FakeQuant
from llmc.export.fake.transformed import Transformed
from llmc.export.lightx2v.exporter import LightX2V
from llmc.export.part import FinishedPart
from llmc.layers.linear import in_mode
from llmc.models.loaded import LoadedModel
from llmc.models.wan import LIGHTX2V, WanI2V
from llmc.numerics.spec import LayerSpec, TensorSpec
from llmc.policy.rules import Policy
from tests.export.tiny import SAMPLING, SMOOTH, spec


def quantized(
    folder: Path, exporter: Exporter, recipe: tuple[Algorithm, ...], name: str = "int8"
) -> tuple[Any, Network]:
    adapter = WanI2V()
    pipeline = adapter.load(folder / "model", "auto", "cpu")
    network = prepare(adapter.parts(pipeline)[0], Policy(spec(name)), [exporter], recipe)
    samples = read_samples(folder / "samples", needs_image=True)
    calibrate(
        LoadedModel(adapter, pipeline),
        [network],
        CalibrationPlan([(i, s, SAMPLING) for i, s in enumerate(samples)], 64),
    )
    return pipeline, network


def finished(folder: Path, network: Network) -> FinishedPart:
    return FinishedPart(
        "transformer", network.part.module, network.layers, WanI2V.renames, folder / "model",
        {"producer": "test", "recipe": "test", "fingerprint": "0"}, {**SAMPLING.model_dump(), "shift": 3.0},
    )  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("name", ["int8", "fp8_e4m3"])
@pytest.mark.parametrize("recipe", [(RTN(),), SMOOTH], ids=["RTN", "SmoothQuant"])
def test_lightx2v_weights_dequantize_to_what_was_judged(
    folder: Path, tmp_path: Path, name: str, recipe: tuple[Algorithm, ...]
) -> None:
    _, network = quantized(folder, LightX2V(), recipe, name)
    LightX2V().write(finished(folder, network), tmp_path)
    tensors = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    for layer_name, layer in network.layers.items():
        codes, scale = tensors[f"{layer_name}.weight"], tensors[f"{layer_name}.weight_scale"]
        assert codes.dtype == {"int8": torch.int8, "fp8_e4m3": torch.float8_e4m3fn}[name]
        assert (scale.dtype, scale.shape) == (torch.float32, (layer.out_features, 1))
        assert torch.equal(scale, scale.bfloat16().float())
        assert layer.state.rounded is not None
        assert torch.equal(codes.float() * scale, layer.state.rounded.dequantize())
    has_affine_norms = {
        f"blocks.{i}.affine_norm{n}.{leaf}" for i in (0, 1) for n in (1, 3) for leaf in ("weight", "bias")
    }
    smoothed = recipe is SMOOTH
    assert (has_affine_norms <= tensors.keys()) == smoothed
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config.get("quant_method") == "advanced_ptq") == smoothed
    float_names = network.part.module.state_dict().keys() - {
        f"{n}.{leaf}" for n in network.layers for leaf in ("weight", "bias")
    }
    assert float_names <= tensors.keys()


@torch.no_grad()
def test_a_runtime_that_reads_the_file_computes_what_was_judged(folder: Path, tmp_path: Path) -> None:
    """The runtime's arithmetic, written down independently: norms with multipliers, folded rows and biases."""
    _, network = quantized(folder, LightX2V(), SMOOTH)
    LightX2V().write(finished(folder, network), tmp_path)
    tensors = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    block = network.part.module.blocks[0]
    x = torch.randn(1, 12, 64)
    # norm1 (modulated) -> q: the runtime multiplies affine_norm1 onto (1 + scale) and shift
    shift, scale = torch.randn(1, 1, 64), torch.randn(1, 1, 64)
    read = (
        block.norm1(x) * ((1 + scale) * tensors["blocks.0.affine_norm1.weight"])
        + shift * tensors["blocks.0.affine_norm1.bias"]
    )
    q = network.layers["blocks.0.attn1.to_q"]
    torch.testing.assert_close(read, q.prepare(block.norm1(x) * (1 + scale) + shift), rtol=1e-5, atol=1e-5)
    # norm2 (affine) -> cross q: folded into its weight and bias
    weight, bias = tensors["blocks.0.norm2.weight"], tensors["blocks.0.norm2.bias"]
    read = torch.nn.functional.layer_norm(x, (64,), weight, bias, block.norm2.eps)
    torch.testing.assert_close(
        read, network.layers["blocks.0.attn2.to_q"].prepare(block.norm2(x)), rtol=1e-5, atol=1e-5
    )
    # whatever 16 bits the runtime keeps norms in, it multiplies by what was judged
    torch.testing.assert_close(weight.bfloat16().float(), weight, rtol=2**-23, atol=0)
    # v -> o: the rows of v carry it, weight and bias
    v = network.layers["blocks.0.attn1.to_v"]
    dequantized = tensors["blocks.0.attn1.to_v.weight"].float() * tensors["blocks.0.attn1.to_v.weight_scale"]
    read = torch.nn.functional.linear(v.prepare(x), dequantized, tensors["blocks.0.attn1.to_v.bias"])
    assert v.state.out_transforms
    torch.testing.assert_close(
        v.restored_output(read), torch.nn.functional.linear(x, v.weight, v.bias), rtol=0.05, atol=0.05
    )


def test_native_names_are_the_renamed_tensors_and_the_runtime_is_ready(folder: Path, tmp_path: Path) -> None:
    _, network = quantized(folder, LightX2V(), SMOOTH)
    part = finished(folder, network)
    LightX2V().write(part, tmp_path / "diffusers")
    LightX2V(native_names=True).write(part, tmp_path / "native")
    LightX2V(native_names=True).finish([part], tmp_path / "native")
    LightX2V(native_names=True, layout="blocks").write(part, tmp_path / "blocks")
    theirs = load_file(tmp_path / "diffusers" / "diffusion_pytorch_model.safetensors")
    single = load_file(tmp_path / "native" / "diffusion_pytorch_model.safetensors")
    assert sorted(file.name for file in (tmp_path / "blocks").glob("*.safetensors")) == [
        "block_0.safetensors", "block_1.safetensors", "non_block.safetensors",
    ]  # fmt: skip
    blocks = {k: v for file in (tmp_path / "blocks").glob("*.safetensors") for k, v in load_file(file).items()}
    rename = Renamer(LIGHTX2V)
    assert single.keys() == blocks.keys() == {rename.forward(name) for name in theirs}
    for name, tensor in theirs.items():
        assert torch.equal(single[rename.forward(name)].view(torch.uint8), tensor.view(torch.uint8))
        if name.endswith(".bias") and name.removesuffix(".bias") in network.layers:
            tensor = tensor.bfloat16()  # lazy loading hands it to a kernel as it is
        assert torch.equal(blocks[rename.forward(name)].view(torch.uint8), tensor.view(torch.uint8))
    config = json.loads((tmp_path / "native" / "config.json").read_text())
    assert {"dim": 64, "num_heads": 4, "num_layers": 2, "ffn_dim": 128, "in_dim": 36, "out_dim": 16, "text_len": 512,
            "quant_method": "advanced_ptq"}.items() <= config.items()  # fmt: skip
    runtime = json.loads((tmp_path / "native" / "lightx2v_int8-vllm.json").read_text())
    assert runtime["dit_quantized"] is True and runtime["dit_quantized_ckpt"] == str((tmp_path / "native").resolve())
    assert runtime["quant_method"] == "advanced_ptq" and (runtime["infer_steps"], runtime["sample_shift"]) == (2, 3.0)


@torch.no_grad()
def test_stock_diffusers_loads_the_rounded_weights_in_the_original_basis(folder: Path, tmp_path: Path) -> None:
    _, network = quantized(folder, FakeQuant(), SMOOTH)
    FakeQuant().write(finished(folder, network), tmp_path / "fake")
    loaded = WanI2V().load(tmp_path / "fake", "auto", "cpu")
    kwargs = {
        "hidden_states": torch.randn(1, 36, 2, 4, 4), "timestep": torch.tensor([500]), "return_dict": False,
        "encoder_hidden_states": torch.randn(1, 512, 32), "encoder_hidden_states_image": torch.randn(1, 17, 32),
    }  # fmt: skip
    for layer in network.layers.values():
        layer.spec = LayerSpec(weight=layer.spec.weight)  # its activations stay float
    with in_mode(network.layers.values(), "quantized"):
        wanted = network.part.module(**kwargs)[0]
    torch.testing.assert_close(loaded.transformer(**kwargs)[0], wanted, rtol=1e-4, atol=1e-4)


def test_the_transformed_model_is_float_with_its_multipliers_beside(folder: Path, tmp_path: Path) -> None:
    _, network = quantized(folder, Transformed(), SMOOTH)
    Transformed().write(finished(folder, network), tmp_path)
    tensors = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    layer = network.layers["blocks.0.ffn.net.0.proj"]
    assert torch.equal(tensors["blocks.0.ffn.net.0.proj.weight"], layer.float_weight())
    torch.testing.assert_close(
        tensors["blocks.0.ffn.net.0.proj.weight"] * tensors["blocks.0.affine_norm3.weight"],
        layer.weight,
        rtol=1e-6,
        atol=0,
    )


@pytest.mark.parametrize(
    "wrong, says",
    [
        (LayerSpec(), "none stays float"),
        (LayerSpec(weight=TensorSpec(format="int8", granularity="per_channel")), "with act int8 per_token"),
        (spec("int4"), "it reads weight int4 per_group 128 with act float"),
        (LayerSpec(weight=spec("int8").weight, act=spec("fp8_e4m3").act), "with act int8 per_token"),
        (
            LayerSpec(
                weight=spec("int8").weight, act=TensorSpec(format="int8", granularity="per_tensor", dynamic=False)
            ),
            "with act int8 per_token; found",
        ),
        (
            LayerSpec(weight=TensorSpec(format="int8", granularity="per_group", group_size=8), act=spec("int8").act),
            "per_channel",
        ),
    ],
)
def test_lightx2v_says_why_it_cannot_take_a_layer(wrong: LayerSpec, says: str) -> None:
    assert any(says in problem for problem in LightX2V().problems(wrong, frozenset()))
    assert LightX2V().problems(spec("int8"), frozenset({"scale", "rounded"})) == []
    assert LightX2V().problems(spec("int8"), frozenset({"lowrank"}))
