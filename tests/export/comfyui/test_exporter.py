"""ComfyUI's file, by a reader of its own: names, types, descriptions, and the values that were judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llmc.convert.rename import Renamer
from llmc.export.comfyui.exporter import ComfyUI
from llmc.models.wan import LIGHTX2V
from llmc.numerics.spec import LayerSpec, TensorSpec
from llmc.policy.rules import Policy
from tests.export.tiny import finished_part, stock_output, weights_alone, with_float

INT8 = LayerSpec(
    weight=TensorSpec(format="int8", granularity="per_channel"), act=TensorSpec(format="int8", granularity="per_token")
)
INT8_TENSOR = LayerSpec(weight=TensorSpec(format="int8", granularity="per_tensor"), act=INT8.act)
FP8 = LayerSpec(
    weight=TensorSpec(format="fp8_e4m3", granularity="per_tensor"),
    act=TensorSpec(format="fp8_e4m3", granularity="per_tensor", dynamic=False),
)
FP8_WEIGHTS = LayerSpec(weight=FP8.weight)
NAMES = {  # a few of them written down, so that no table is both the writer's and the reader's
    "blocks.0.attn1.to_q": "blocks.0.self_attn.q",
    "blocks.1.attn1.to_out.0": "blocks.1.self_attn.o",
    "blocks.0.attn2.add_k_proj": "blocks.0.cross_attn.k_img",
    "blocks.1.ffn.net.2": "blocks.1.ffn.2",
}


def read(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*.safetensors")
    assert sorted(folder.iterdir()) == [file]
    return load_file(file)


def dequantized(tensors: dict[str, torch.Tensor], scale: str) -> dict[str, torch.Tensor]:
    """The float weights that the file stands for, under the names of the original network."""
    weights = {}
    for name, tensor in tensors.items():
        layer, _, leaf = name.rpartition(".")
        if leaf in ("weight", "bias") or "modulation" in name or name.endswith("emb_pos"):
            is_codes = leaf == "weight" and f"{layer}.{scale}" in tensors
            weights[name] = tensor.float() * tensors[f"{layer}.{scale}"] if is_codes else tensor
    return weights


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "spec, says, shape",
    [
        (INT8, {"format": "int8_tensorwise"}, "rows"),
        (INT8_TENSOR, {"format": "int8_tensorwise"}, "one"),
        (FP8, {"format": "float8_e4m3fn"}, "one"),
        (FP8_WEIGHTS, {"format": "float8_e4m3fn", "full_precision_matrix_mult": True}, "one"),
    ],
    ids=["int8", "int8 per tensor", "fp8", "fp8 weights alone"],
)
def test_every_layer_describes_itself_and_is_what_was_judged(
    folder: Path, tmp_path: Path, spec: LayerSpec, says: dict[str, object], shape: str, dtype: str
) -> None:
    part, network = finished_part(folder, ComfyUI(), Policy(spec), dtype)
    ComfyUI().write(part, tmp_path)
    tensors = read(tmp_path)
    assert {name for name in tensors if name.endswith(".comfy_quant")} >= {f"{n}.comfy_quant" for n in NAMES.values()}
    static = spec.act is not None and not spec.act.dynamic
    for name, layer in network.layers.items():
        new = Renamer(LIGHTX2V).forward(name)
        assert NAMES.get(name, new) == new
        description = tensors[f"{new}.comfy_quant"]
        assert description.dtype == torch.uint8 and json.loads(bytes(description.tolist())) == says
        scale = tensors[f"{new}.weight_scale"]
        assert (scale.dtype, scale.shape) == (torch.float32, (layer.out_features, 1) if shape == "rows" else ())
        assert torch.equal(scale, scale.bfloat16().float())
        assert layer.state.rounded is not None
        assert torch.equal(tensors[f"{new}.weight"].float() * scale, layer.state.rounded.dequantize())
        assert tensors[f"{new}.bias"].dtype == getattr(torch, dtype)
        assert (f"{new}.input_scale" in tensors) == static
        if static:
            assert layer.state.static is not None
            found = tensors[f"{new}.input_scale"]
            assert (found.dtype, found.shape) == (torch.float32, ()) and found == layer.state.static[0]
    assert not any("affine_norm" in name for name in tensors)


@torch.no_grad()
@pytest.mark.parametrize("form", ["comfy_quant", "scaled_fp8"])
def test_the_original_network_computes_what_was_judged(folder: Path, tmp_path: Path, form: str) -> None:
    """Smoothing is in the file: in rows and norms; nothing is missing and nothing else is there."""
    exporter = ComfyUI(format=form)
    part, network = finished_part(folder, exporter, with_float(Policy(FP8), "blocks.0.attn2.to_q", "blocks.1.*"))
    scaled = {name for name, layer in network.layers.items() if layer.state.transforms}
    assert scaled == {f"blocks.{i}.{n}" for i in (0, 1) for n in ("attn1.to_out.0", "attn2.to_q", "attn2.to_out.0")}
    exporter.write(part, tmp_path)
    weights = dequantized(read(tmp_path), "weight_scale" if form == "comfy_quant" else "scale_weight")
    old_names = Renamer(LIGHTX2V).backward_all(weights)
    found = stock_output(part, {old_names[name]: tensor for name, tensor in weights.items()})
    torch.testing.assert_close(found, weights_alone(network), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("spec, elements", [(FP8, 0), (FP8_WEIGHTS, 2)], ids=["with acts", "weights alone"])
def test_the_older_form_has_its_marker_and_its_names(
    folder: Path, tmp_path: Path, spec: LayerSpec, elements: int
) -> None:
    exporter = ComfyUI(format="scaled_fp8")
    part, network = finished_part(folder, exporter, Policy(spec))
    exporter.write(part, tmp_path)
    tensors = read(tmp_path)
    marker = tensors.pop("scaled_fp8")
    assert (marker.dtype, marker.numel()) == (torch.float8_e4m3fn, elements)
    leaves = {name.rpartition(".")[2] for name in tensors}
    assert leaves == {"weight", "bias", "modulation", "scale_weight"} | ({"scale_input"} if elements == 0 else set())
    for name, new in NAMES.items():
        rounded, static = network.layers[name].state.rounded, network.layers[name].state.static
        scale = tensors[f"{new}.scale_weight"]
        assert rounded is not None and scale.shape == ()
        assert torch.equal(tensors[f"{new}.weight"].float() * scale, rounded.dequantize())
        assert static is None or tensors[f"{new}.scale_input"] == static[0]


@pytest.mark.parametrize(
    "wrong",
    [
        LayerSpec(weight=INT8.weight, act=FP8.act),
        LayerSpec(weight=FP8.weight, act=FP8.act.model_copy(update={"dynamic": True})),  # type: ignore[union-attr]
        LayerSpec(weight=INT8.weight, act=TensorSpec(format="int8", granularity="per_tensor", dynamic=False)),
        LayerSpec(weight=TensorSpec(format="fp8_e4m3", granularity="per_channel")),
        LayerSpec(weight=TensorSpec(format="int8", granularity="per_channel", symmetric=False)),
        LayerSpec(weight=TensorSpec(format="int4", granularity="per_channel")),
        LayerSpec(act=FP8.act),
    ],
    ids=str,
)
def test_what_comfyui_would_compute_otherwise_is_refused(wrong: LayerSpec) -> None:
    (problem,) = ComfyUI().problems(wrong, frozenset({"scale", "rounded"}))
    assert "it takes int8 weights (per_channel or per_tensor)" in problem and f"found {wrong}" in problem
    assert (
        ComfyUI().problems(INT8, frozenset({"scale", "rounded"})) == ComfyUI().problems(LayerSpec(), frozenset()) == []
    )
    assert ComfyUI().problems(INT8, frozenset({"rotate"})) and ComfyUI().problems(INT8, frozenset({"lowrank"}))


def test_the_older_form_holds_fp8_alone_and_says_once_how_acts_are_rounded() -> None:
    older = ComfyUI(format="scaled_fp8")
    assert "fp8_e4m3 weights alone" in older.problems(INT8, frozenset())[0]
    assert older.problems(FP8, frozenset()) == [] and older.scheme_of(LayerSpec()) is None
    assert older.scheme_of(FP8) != older.scheme_of(FP8_WEIGHTS)
    assert ComfyUI().scheme_of(FP8) is None
