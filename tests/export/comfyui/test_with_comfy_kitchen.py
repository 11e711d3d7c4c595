"""ComfyUI's file, read by its own kernels' tensors; needs the extra `verify`."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llmc.convert.rename import Renamer
from llmc.export.comfyui.exporter import ComfyUI
from llmc.layers.linear import in_mode
from llmc.models.wan import LIGHTX2V
from llmc.numerics.spec import LayerSpec, TensorSpec
from llmc.policy.rules import Policy
from tests.export.tiny import finished_part, save_tiny

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    kitchen = pytest.importorskip("comfy_kitchen", reason="bash scripts/test.sh --extras verify installs it")

pytestmark = pytest.mark.filterwarnings("ignore")  # of its own

INT8 = LayerSpec(
    weight=TensorSpec(format="int8", granularity="per_channel"), act=TensorSpec(format="int8", granularity="per_token")
)
FP8 = LayerSpec(
    weight=TensorSpec(format="fp8_e4m3", granularity="per_tensor"),
    act=TensorSpec(format="fp8_e4m3", granularity="per_tensor", dynamic=False),
)


@torch.no_grad()
@pytest.mark.parametrize("spec", [INT8, FP8], ids=["int8", "fp8"])
def test_its_tensors_dequantize_to_what_was_judged_and_multiply_alike(tmp_path: Path, spec: LayerSpec) -> None:
    from comfy_kitchen.tensor import QuantizedTensor, TensorCoreFP8Layout, TensorWiseINT8Layout

    part, network = finished_part(save_tiny(tmp_path / "wan"), ComfyUI(), Policy(spec))
    ComfyUI().write(part, tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    tensors = load_file(file)
    layout = TensorWiseINT8Layout if spec is INT8 else TensorCoreFP8Layout

    def weight(name: str, dtype: torch.dtype) -> torch.Tensor:
        codes, scale = tensors[f"{name}.weight"], tensors[f"{name}.weight_scale"]
        params = layout.Params(scale=scale, orig_dtype=dtype, orig_shape=tuple(codes.shape))
        return QuantizedTensor(codes, layout.__name__, params)

    with kitchen.use_backend("eager"):
        for name, layer in network.layers.items():
            new = Renamer(LIGHTX2V).forward(name)
            assert layer.state.rounded is not None
            for dtype in (torch.float32, torch.bfloat16):
                assert torch.equal(weight(new, dtype).dequantize(), layer.state.rounded.dequantize().to(dtype)), name
            x = torch.randn(32, layer.in_features)
            read: torch.Tensor = x
            if spec is FP8:
                read = QuantizedTensor.from_float(x, layout.__name__, scale=tensors[f"{new}.input_scale"])
            found = torch.nn.functional.linear(read, weight(new, torch.float32), tensors[f"{new}.bias"])
            layer.state = replace(layer.state, transforms=())  # what norms and linears before it did
            with in_mode([layer], "quantized"):
                torch.testing.assert_close(found, layer(x), rtol=1e-4, atol=1e-4)
