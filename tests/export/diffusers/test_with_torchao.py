"""The folder for diffusers, loaded by diffusers itself with torchao; needs the extra `verify`."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from llmc.export.diffusers.exporter import Diffusers
from llmc.layers.linear import in_mode
from llmc.numerics.quantize import quantize
from llmc.policy.rules import Policy
from tests.export.tiny import finished_family, finished_part, judged_output, output, spec, with_float

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("torchao", reason="bash scripts/test.sh --extras verify installs it")

pytestmark = pytest.mark.filterwarnings("ignore")  # of torchao's own


def load(folder: Path, dtype: torch.dtype | None) -> Any:
    from diffusers import WanImageToVideoPipeline

    pipeline = WanImageToVideoPipeline.from_pretrained(folder, **({} if dtype is None else {"torch_dtype": dtype}))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
@pytest.mark.parametrize("act", [True, False], ids=["with acts", "weights alone"])
@pytest.mark.parametrize("name", ["int8", "fp8_e4m3"])
def test_stock_diffusers_loads_it_and_dequantizes_to_what_was_judged(
    folder: Path, tmp_path: Path, name: str, act: bool
) -> None:
    policy = with_float(Policy(spec(name, act)), "blocks.1.ffn.net.2")
    part, network = finished_part(folder, Diffusers(), policy)
    Diffusers().write(part, tmp_path)
    loaded = load(tmp_path, torch.float32).transformer
    for layer_name, layer in network.layers.items():
        weight = loaded.get_submodule(layer_name).weight
        if layer.state.rounded is None:
            assert type(weight) is torch.nn.Parameter
            continue
        assert type(weight).__name__ == {"int8": "Int8Tensor", "fp8_e4m3": "Float8Tensor"}[name]
        assert torch.equal(weight.dequantize(torch.float32), layer.state.rounded.dequantize()), layer_name
    with in_mode(network.layers.values(), "quantized"):
        judged = output(network.part.module)
    found = output(loaded)
    error = ((found - judged).norm() / judged.norm()).item()
    # at -127.5 steps the lowest value of a token lies between two codes of int8: float noise decides which
    assert error < ((3e-3 if name == "int8" else 5e-4) if act else 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["int8", "fp8_e4m3"])
def test_acts_are_rounded_to_the_codes_that_torchao_gives_them(name: str, dtype: torch.dtype) -> None:
    from torchao.quantization import Float8Tensor, Int8Tensor, PerRow

    act = Diffusers().computed(spec(name, True)).act
    assert act is not None
    x = torch.randn(512, 256, generator=torch.Generator().manual_seed(0)).to(dtype)
    make = Int8Tensor.from_hp if name == "int8" else partial(Float8Tensor.from_hp, float8_dtype=torch.float8_e4m3fn)
    theirs, ours = make(x, granularity=PerRow()), quantize(x, act)
    assert torch.equal(ours.stored(), theirs.qdata) and torch.equal(ours.scale, theirs.scale)


@torch.no_grad()
def test_it_makes_a_video(folder: Path, tmp_path: Path) -> None:
    from PIL import Image

    part, _ = finished_part(folder, Diffusers(), Policy(spec("int8", True)))
    Diffusers().write(part, tmp_path)
    pipeline = load(tmp_path, None)
    with Image.open(folder / "samples" / "0.png") as image:
        frames = pipeline(
            image=image, prompt="a red circle", height=32, width=32, num_frames=5, num_inference_steps=2,
            generator=torch.Generator().manual_seed(0), output_type="pt",
        ).frames[0]  # fmt: skip
    assert frames.shape == (5, 3, 32, 32) and frames.float().isfinite().all() and frames.float().std() > 0


@torch.no_grad()
@pytest.mark.parametrize("name", ["int8", "fp8_e4m3"])
@pytest.mark.parametrize("family", ["Flux", "SD3", "HunyuanVideo"])
def test_stock_diffusers_loads_other_families_and_computes_what_was_judged(
    tmp_path: Path, family: str, name: str
) -> None:
    from diffusers import DiffusionPipeline

    part, network, call = finished_family(tmp_path, family, Diffusers(), spec(name, act=False))
    Diffusers().write(part, tmp_path / "out")
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "out", torch_dtype=torch.float32).transformer
    for layer_name, layer in network.layers.items():
        weight = loaded.get_submodule(layer_name).weight
        assert type(weight).__name__ == {"int8": "Int8Tensor", "fp8_e4m3": "Float8Tensor"}[name]
        assert layer.state.rounded is not None
        assert torch.equal(weight.dequantize(), layer.state.rounded.dequantize())
    args, kwargs = call
    torch.testing.assert_close(loaded(*args, **kwargs)[0], judged_output(network, call), rtol=1e-4, atol=1e-4)
