"""ComfyUI's file, read by its own kernels' tensors; needs the extra `verify`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from llmc.algorithms.gptq import GPTQ
from llmc.algorithms.hadamard import Hadamard
from llmc.algorithms.smoothquant import SmoothQuant
from llmc.convert.rename import Renamer
from llmc.export.comfyui.exporter import ComfyUI
from llmc.layers.linear import in_mode
from llmc.layers.transforms import Rotate
from llmc.models.wan import LIGHTX2V
from llmc.numerics.spec import LayerSpec
from llmc.policy.rules import Policy, Rule
from tests.export.comfyui.grids import GRIDS, MIXED
from tests.export.tiny import finished_part

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    kitchen = pytest.importorskip("comfy_kitchen", reason="bash scripts/test.sh --extras verify installs it")

pytestmark = pytest.mark.filterwarnings("ignore")  # of its own

LAYOUTS = {  # what `format` says -> its class, and which tensor is which of its parameters
    "int8_tensorwise": ("TensorWiseINT8Layout", {"scale": "weight_scale"}),
    "float8_e4m3fn": ("TensorCoreFP8Layout", {"scale": "weight_scale"}),
    "float8_e5m2": ("TensorCoreFP8Layout", {"scale": "weight_scale"}),
    "convrot_w4a4": ("TensorCoreConvRotW4A4Layout", {"scale": "weight_scale"}),
    "asym_w4a8_int8": (
        "AsymW4A8Int8Layout",
        {"scale": "weight_s_rel", "s_channel": "weight_s_channel", "codebook": "weight_codebook"},
    ),
    "awq_w4a16": ("TensorCoreAWQW4A16Layout", {"scale": "weight_scale", "zeros": "weight_zeros"}),
    "nvfp4": ("TensorCoreNVFP4Layout", {"scale": "weight_scale_2", "block_scale": "weight_scale"}),
    "mxfp8": ("TensorCoreMXFP8Layout", {"scale": "weight_scale"}),
}
OPTIONS = ("convrot", "convrot_groupsize", "linear_dtype", "group_size")


@torch.no_grad()
@pytest.mark.parametrize("name", GRIDS)
def test_its_tensors_dequantize_to_what_was_judged_and_multiply_alike(folder: Path, tmp_path: Path, name: str) -> None:
    assert_alike(folder, tmp_path, Policy(GRIDS[name]))


@torch.no_grad()
def test_six_forms_in_one_file_are_read_each_by_its_own(folder: Path, tmp_path: Path) -> None:
    rules = tuple(Rule(match, GRIDS[name]) for match, name in MIXED.items())
    says = assert_alike(folder, tmp_path, Policy(GRIDS["int8"], rules))
    assert len({each["format"] for each in says}) == 6


def assert_alike(folder: Path, tmp_path: Path, policy: Policy) -> list[dict[str, Any]]:
    """Every layer of the file, by the runtime's own arithmetic; returns what they say of themselves."""
    recipe = (SmoothQuant(gate=False), Hadamard(matrix="regular", gate=False), GPTQ())
    part, network = finished_part(folder, ComfyUI(), policy, recipe=recipe)
    ComfyUI().write(part, tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    tensors, found = load_file(file), []
    with kitchen.use_backend("eager"):
        for name, layer in network.layers.items():
            leaves = leaves_of(tensors, Renamer(LIGHTX2V).forward(name))
            says = json.loads(bytes(leaves["comfy_quant"].tolist()))
            found.append(says)
            weight = runtime_weight(leaves, says)
            judged = layer.rounded_weight()
            for transform in layer.state.transforms:
                if isinstance(transform, Rotate):
                    judged = transform.restore(judged)
            torch.testing.assert_close(weight.dequantize(), judged, rtol=1e-6, atol=1e-6 * float(judged.abs().max()))
            x = torch.randn(32, layer.in_features)
            read = runtime_input(x, leaves, says, layer.spec)
            if says["format"] == "mxfp8":  # whose product no CPU has: ComfyUI emulates it so
                read, weight = read.dequantize(), weight.dequantize()
            y = torch.nn.functional.linear(read, weight, leaves["bias"])
            rest = [each for each in layer.state.transforms if isinstance(each, Rotate) or "pre_quant_scale" in leaves]
            layer.state = replace(layer.state, transforms=tuple(rest))  # the others are in norms and linears before it
            with in_mode([layer], "quantized"):
                wanted = layer(x)
            assert float((y - wanted).norm() / wanted.norm()) < 1e-6, name
    return found


def leaves_of(tensors: Mapping[str, Tensor], module: str) -> dict[str, Tensor]:
    return {name.rpartition(".")[2]: tensor for name, tensor in tensors.items() if name.rpartition(".")[0] == module}


def runtime_weight(leaves: Mapping[str, Tensor], says: Mapping[str, Any]) -> Any:
    """As ComfyUI makes it of the tensors of a layer and of its description."""
    from comfy_kitchen import tensor

    name, params = LAYOUTS[says["format"]]
    codes, own = leaves["weight"], {key: value for key, value in says.items() if key in OPTIONS}
    if says["format"] == "asym_w4a8_int8":
        own.pop("convrot")  # nobody asks: it always rotates
    halves = says["format"] in ("convrot_w4a4", "asym_w4a8_int8", "awq_w4a16", "nvfp4")
    shape = (codes.shape[0], codes.shape[1] * 2) if halves else tuple(codes.shape)
    named = {param: leaves[leaf] for param, leaf in params.items() if leaf in leaves}
    made = getattr(tensor, name).Params(**named, orig_dtype=torch.float32, orig_shape=shape, **own)
    return tensor.QuantizedTensor(codes, name, made)


def runtime_input(x: Tensor, leaves: Mapping[str, Tensor], says: Mapping[str, Any], spec: LayerSpec) -> Any:
    """What the layer is called with: floats, or what the weight's kernel takes."""
    from comfy_kitchen.tensor import QuantizedTensor

    if "pre_quant_scale" in leaves:
        x = x * leaves["pre_quant_scale"]
    name, _ = LAYOUTS[says["format"]]
    if says.get("full_precision_matrix_mult") or spec.act is None or says["format"] not in FLOATS:
        return x
    scale = {} if "input_scale" not in leaves else {"scale": leaves["input_scale"]}
    return QuantizedTensor.from_float(x, name, **scale, **FLOATS[says["format"]])


FLOATS: Mapping[str, dict[str, Any]] = {
    "float8_e4m3fn": {}, "float8_e5m2": {"dtype": torch.float8_e5m2}, "nvfp4": {}, "mxfp8": {}
}  # fmt: skip
