"""Quantized encoders as files: LightX2V's, which its modules load strictly, and those of stock transformers."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llmc.algorithms.base import Algorithm
from llmc.algorithms.rtn import RTN
from llmc.calib.samples import read_samples
from llmc.engine.calibrate import CalibrationPlan, calibrate
from llmc.engine.network import Network, prepare
from llmc.errors import ExportError
from llmc.export.base import Exporter
from llmc.export.fake.exporter import FakeQuant
from llmc.export.fake.transformed import Transformed
from llmc.export.lightx2v.encoders import encoder_keys, encoder_path, write_encoder
from llmc.export.lightx2v.exporter import LightX2V
from llmc.export.part import FinishedPart
from llmc.layers.linear import in_mode
from llmc.models.encoders import encoder_parts
from llmc.models.loaded import LoadedModel
from llmc.models.samples import Sampling
from llmc.models.wan import WanI2V
from llmc.numerics.spec import LayerSpec
from llmc.policy.rules import Policy
from tests.export.tiny import SMOOTH, spec

SAMPLING = Sampling(height=32, width=32, num_frames=5, steps=1, guidance_scale=2.0, seed=3)
RUNTIME = {"text_encoder": torch.bfloat16, "image_encoder": torch.float16}


def quantized(
    folder: Path, exporter: Exporter, recipe: tuple[Algorithm, ...], name: str = "int8", norms: float = 0.0
) -> tuple[Any, dict[str, FinishedPart]]:
    """The tiny pipeline's two encoders after calibration; `norms`: how far their weights are from one."""
    adapter = WanI2V()
    pipeline = adapter.load(folder / "model", "auto", "cpu")
    parts = encoder_parts(pipeline, adapter.encoders, ["text_encoder", "image_encoder"])
    for weight in (weight for part in parts for weight in part.module.parameters() if norms and weight.ndim == 1):
        weight.data += torch.randn_like(weight) * norms
    networks = [prepare(part, Policy(spec(name)), [exporter], recipe) for part in parts]
    samples = read_samples(folder / "samples", needs_image=True)
    calibrate(
        LoadedModel(adapter, pipeline), networks, CalibrationPlan([(i, s, SAMPLING) for i, s in enumerate(samples)], 64)
    )
    return pipeline, {network.part.name: finished(folder, network) for network in networks}


def finished(folder: Path, network: Network) -> FinishedPart:
    return FinishedPart(
        network.part.name, network.part.module, network.layers, WanI2V.renames, folder / "model",
        {"producer": "test"}, {**SAMPLING.model_dump(), "shift": 3.0}, network.part.section,
        ("text_encoder", "image_encoder"),
    )  # fmt: skip


def read_pth(path: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = torch.load(path, weights_only=True)
    return tensors


@torch.no_grad()
@pytest.mark.parametrize("name", ["int8", "fp8_e4m3"])
def test_lightx2v_gets_codes_scales_and_floats_of_the_types_it_runs(folder: Path, tmp_path: Path, name: str) -> None:
    _, parts = quantized(folder, LightX2V(), SMOOTH, name)
    precision = {"int8": "int8", "fp8_e4m3": "fp8"}[name]
    names = {
        "text_encoder": f"models_t5_umt5-xxl-enc-{precision}",
        "image_encoder": f"models_clip_open-clip-xlm-roberta-large-vit-huge-14-{precision}",
    }
    for part in parts.values():
        pickled = read_pth(write_encoder(part, tmp_path, "pth"))
        assert (tmp_path / precision / f"{names[part.name]}.pth").is_file()
        write_encoder(part, tmp_path, "safetensors")
        tensors = load_file(tmp_path / precision / f"{names[part.name]}.safetensors")
        assert tensors.keys() == pickled.keys()
        assert all(
            torch.equal(tensors[n].view(torch.uint8), t.view(torch.uint8)) for n, t in pickled.items() if t.dim()
        )
        scales = {n for n in tensors if n.endswith(".weight_scale")}
        assert len(scales) == {"text_encoder": 14, "image_encoder": 12}[part.name]  # q, k, v of CLIP are one
        for scale in scales:
            codes = tensors[scale.removesuffix("_scale")]
            assert codes.dtype == (torch.int8 if name == "int8" else torch.float8_e4m3fn)
            assert (tensors[scale].dtype, tuple(tensors[scale].shape)) == (torch.float32, (codes.shape[0], 1))
        floats = {tensors[n].dtype for n in tensors.keys() - scales - {n.removesuffix("_scale") for n in scales}
                  if n != "log_scale"}  # fmt: skip
        assert floats == {RUNTIME[part.name]}
        assert part.name == "text_encoder" or tensors["log_scale"].dtype == torch.float32


@torch.no_grad()
@pytest.mark.parametrize("recipe", [(RTN(),), SMOOTH], ids=["RTN", "SmoothQuant"])
def test_the_files_dequantize_to_what_was_judged(folder: Path, tmp_path: Path, recipe: tuple[Algorithm, ...]) -> None:
    _, parts = quantized(folder, LightX2V(), recipe)
    t5 = read_pth(write_encoder(parts["text_encoder"], tmp_path, "pth"))
    clip = read_pth(write_encoder(parts["image_encoder"], tmp_path, "pth"))
    theirs = {"SelfAttention.q": "attn.q", "SelfAttention.o": "attn.o", "DenseReluDense.wi_0": "ffn.gate.0",
              "DenseReluDense.wi_1": "ffn.fc1", "DenseReluDense.wo": "ffn.fc2"}  # fmt: skip
    for name, layer in parts["text_encoder"].layers.items():
        _, _, number, rest = name.split(".", 3)
        if (leaf := theirs.get(rest.split(".", 2)[2])) is not None:
            assert layer.state.rounded is not None
            found = t5[f"blocks.{number}.{leaf}.weight"].float() * t5[f"blocks.{number}.{leaf}.weight_scale"]
            assert torch.equal(found, layer.state.rounded.dequantize())
    for number in range(3):
        fused = f"visual.transformer.{number}.attn.to_qkv"
        thirds = (clip[f"{fused}.weight"].float() * clip[f"{fused}.weight_scale"]).chunk(3)
        biases = clip[f"{fused}.bias"].chunk(3)
        for third, bias, leaf in zip(thirds, biases, ("q_proj", "k_proj", "v_proj"), strict=True):
            layer = parts["image_encoder"].layers[f"encoder.layers.{number}.self_attn.{leaf}"]
            assert layer.state.rounded is not None
            assert torch.equal(third, layer.state.rounded.dequantize())
            assert torch.equal(bias, layer.float_bias().half())  # type: ignore[union-attr]


@torch.no_grad()
def test_smoothing_is_folded_into_norms_and_rows(folder: Path, tmp_path: Path) -> None:
    """LightX2V's own equations of a T5 block, on the file, give what the smoothed layers of ours read."""
    pipeline, parts = quantized(folder, LightX2V(), SMOOTH)
    t5 = read_pth(write_encoder(parts["text_encoder"], tmp_path, "pth"))
    layers = parts["text_encoder"].layers
    assert len(set(t5["blocks.0.norm1.weight"].tolist())) > 8
    block = pipeline.text_encoder.encoder.block[0]
    x = torch.randn(1, 5, 32)
    normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
    q = layers["encoder.block.0.layer.0.SelfAttention.q"]
    assert q.state.transforms
    torch.testing.assert_close(t5["blocks.0.norm1.weight"] * normed, q.prepare(block.layer[0].layer_norm(x)))
    wi_1, wo = (
        layers["encoder.block.0.layer.1.DenseReluDense.wi_1"],
        layers["encoder.block.0.layer.1.DenseReluDense.wo"],
    )
    (scale,) = wo.state.transforms
    assert scale.upstream and wi_1.state.out_transforms
    rows = t5["blocks.0.ffn.fc1.weight"].float() * t5["blocks.0.ffn.fc1.weight_scale"]
    wanted = wi_1.weight * scale.multiplier[:, None]  # type: ignore[attr-defined]
    (smoothed,) = wi_1.state.transforms
    torch.testing.assert_close(rows, smoothed.weight(wanted), rtol=0, atol=float(wanted.abs().max()) / 100)


@torch.no_grad()
def test_norms_in_the_file_are_the_judged_ones(folder: Path, tmp_path: Path) -> None:
    """bf16 and fp16 there; the judged model multiplies by the very same values."""
    _, parts = quantized(folder, LightX2V(), SMOOTH, norms=0.2)
    release = {"text_encoder": "blocks.{}.norm{}.weight", "image_encoder": "visual.transformer.{}.norm{}.weight"}
    places = {
        "text_encoder": (("layer.0.SelfAttention.q", "layer.0.layer_norm"), ("layer.1.DenseReluDense.wi_0",
                                                                             "layer.1.layer_norm")),
        "image_encoder": (("self_attn.q_proj", "layer_norm1"), ("mlp.fc1", "layer_norm2")),
    }  # fmt: skip
    for name, part in parts.items():
        file, blocks = (
            read_pth(write_encoder(part, tmp_path, "pth")),
            "encoder.block" if "text" in name else ("encoder.layers"),
        )
        for number in (0, 1):
            for index, (linear, norm) in enumerate(places[name], 1):
                stored = file[release[name].format(number, index)]
                weight = part.module.get_parameter(f"{blocks}.{number}.{norm}.weight")
                (scale,) = part.layers[f"{blocks}.{number}.{linear}"].state.transforms
                assert scale.fold == f"{blocks}.{number}.{norm}"
                judged = weight * scale.multiplier
                assert torch.equal(judged.to(stored.dtype), stored) and not torch.equal(stored.float(), weight)
                torch.testing.assert_close(stored.float(), judged, rtol=2**-23, atol=0)  # the last bit of float32


def test_the_runtime_is_told_of_each_encoder(folder: Path, tmp_path: Path) -> None:
    _, parts = quantized(folder, LightX2V(), (RTN(),), "fp8_e4m3")
    keys = encoder_keys(list(parts.values()), tmp_path, "safetensors")
    assert keys == {
        "t5_quantized": True, "t5_quant_scheme": "fp8-vllm",
        "t5_quantized_ckpt": str(tmp_path / "fp8" / "models_t5_umt5-xxl-enc-fp8.safetensors"),
        "clip_quantized": True, "clip_quant_scheme": "fp8-vllm",
        "clip_quantized_ckpt": str(
            tmp_path / "fp8" / "models_clip_open-clip-xlm-roberta-large-vit-huge-14-fp8.safetensors"),
    }  # fmt: skip
    assert encoder_path(parts["text_encoder"], tmp_path, "pth").suffix == ".pth"


def test_an_encoder_that_lightx2v_cannot_build_is_told_of(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, parts = quantized(folder, LightX2V(), (RTN(),))
    with caplog.at_level(logging.WARNING):
        write_encoder(parts["text_encoder"], tmp_path, "pth")
    assert "'d_model': 4096" in caplog.text and "'d_model': 32" in caplog.text


def test_one_encoder_has_one_format_and_floats_that_its_type_can_hold(folder: Path, tmp_path: Path) -> None:
    _, parts = quantized(folder, LightX2V(), (RTN(),))
    part = parts["image_encoder"]
    part.module.get_parameter("post_layernorm.bias").data[0] = 1e6
    with pytest.raises(ExportError, match="does not fit into torch"):
        write_encoder(part, tmp_path, "pth")
    part.layers["encoder.layers.0.mlp.fc1"].spec = spec("fp8_e4m3")
    with pytest.raises(ExportError, match="fp8_e4m3, int8; LightX2V reads one format"):
        write_encoder(part, tmp_path, "pth")
    assert list(tmp_path.rglob("*.pth")) == []


@torch.no_grad()
def test_stock_transformers_load_the_rounded_weights(folder: Path, tmp_path: Path) -> None:
    pipeline, parts = quantized(folder, FakeQuant(), SMOOTH)
    for part in parts.values():
        FakeQuant().write(part, tmp_path)
    assert (tmp_path / "transformer" / "config.json").is_file()
    loaded = WanI2V().load(tmp_path, "auto", "cpu")
    calls: dict[str, dict[str, Any]] = {
        "text_encoder": {"input_ids": torch.arange(3, 12)[None]},
        "image_encoder": {"pixel_values": torch.randn(1, 3, 32, 32)},
    }
    for name, part in parts.items():
        for layer in part.layers.values():
            layer.spec = LayerSpec(weight=layer.spec.weight)  # its activations stay float
        with in_mode(part.layers.values(), "quantized"):
            wanted = getattr(pipeline, name)(**calls[name]).last_hidden_state
        found = getattr(loaded, name)(**calls[name]).last_hidden_state
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_the_transformed_encoders_lie_beside_the_network(folder: Path, tmp_path: Path) -> None:
    _, parts = quantized(folder, Transformed(), SMOOTH)
    for part in parts.values():
        Transformed().write(part, tmp_path)
        tensors = load_file(tmp_path / part.name / "model.safetensors")
        for name, layer in part.layers.items():
            assert torch.equal(tensors[f"{name}.weight"], layer.float_weight())
        assert json.loads((tmp_path / part.name / "config.json").read_text())["architectures"]
