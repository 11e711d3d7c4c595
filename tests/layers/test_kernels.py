"""Products of codes against the same products in float64, which holds every sum exactly."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from llmc.errors import UnsupportedSpec
from llmc.layers.kernels import FLOAT32, FP8, INT8, StoredLinear, arithmetic, multiply
from llmc.layers.linear import QuantLinear, in_mode
from llmc.layers.transforms import Scale
from llmc.numerics.spec import LayerSpec, TensorSpec

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
SHAPES = [(1, 16, 32), (5, 64, 48), (17, 20, 3), (40, 33, 7)]  # rows, inputs, outputs; most are no multiples of 16
SUMS = """
import torch
from llmc.layers.kernels import multiply
for kind in (torch.int8, torch.float8_e4m3fn):
    act, weight = (torch.randint(-127, 128, (96, 768)).to(kind) for _ in range(2))
    wanted = act.double() @ weight.double().t()
    print("exact" if (multiply(act, weight).double() - wanted).norm() <= 1e-6 * wanted.norm() else "not exact")
"""


def spec(name: str, static: bool = False) -> LayerSpec:
    act = TensorSpec(format=name, granularity="per_tensor" if static else "per_token", dynamic=not static)
    return LayerSpec(weight=TensorSpec(format=name, granularity="per_channel", scale_dtype="bfloat16"), act=act)


def codes(shape: tuple[int, int], dtype: torch.dtype, device: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(shape[0])
    values = torch.rand(shape, generator=generator) * 254 - 127
    return values.round().to(dtype).to(device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_int8_sums_are_exact(shape: tuple[int, int, int], device: str) -> None:
    rows, inputs, outputs = shape
    act, weight = codes((rows, inputs), torch.int8, device), codes((outputs, inputs), torch.int8, device)
    assert torch.equal(multiply(act, weight).cpu().double(), act.cpu().double() @ weight.cpu().double().t())
    most = torch.full((64, 64), 127, dtype=torch.int8)
    overflows = device == "cpu" and bool((torch._int_mm(most, most) != 64 * 127**2).any())
    assert arithmetic(weight) == (FLOAT32 if overflows else INT8)


def test_a_processor_without_a_product_or_whose_sums_overflow_is_found_out() -> None:
    said = subprocess.run(
        [sys.executable, "-c", SUMS], env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}, check=True, text=True,
        capture_output=True,
    ).stdout  # fmt: skip
    assert said.split() == ["exact", "exact"]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fp8_sums_are_those_of_the_codes(shape: tuple[int, int, int], device: str) -> None:
    rows, inputs, outputs = shape
    act = codes((rows, inputs), torch.float8_e4m3fn, device)
    weight = codes((outputs, inputs), torch.float8_e4m3fn, device)
    wanted = act.cpu().double() @ weight.cpu().double().t()
    close = 1e-6 if device == "cpu" else 1e-4  # tensor cores keep fewer bits of a sum than float32
    assert (multiply(act, weight).cpu().double() - wanted).norm() <= close * wanted.norm()
    if device == "cpu":
        assert arithmetic(weight) == FP8


@torch.no_grad()
@pytest.mark.parametrize("static", [False, True], ids=["per_token", "static"])
@pytest.mark.parametrize("name", ["int8", "fp8_e4m3"])
def test_a_layer_computes_in_real_arithmetic_what_fake_quantization_simulates(name: str, static: bool) -> None:
    torch.manual_seed(0)
    layer, x = QuantLinear(nn.Linear(64, 48), spec(name, static)), torch.randn(2, 9, 64)
    layer.transform(Scale(torch.rand(64) + 0.5))
    layer.fix_act_scale(layer.prepare(x).amin(), layer.prepare(x).amax())
    layer.round()
    with in_mode([layer], "quantized"):
        simulated = layer(x)
    with in_mode([layer], "real"):
        real = layer(x)
    assert (real - simulated).norm() <= 1e-6 * simulated.norm()
    assert layer.state.rounded is not None and layer.spec.act is not None
    input_scale = layer.state.static and layer.state.static[0]
    stored = StoredLinear(
        layer.state.rounded.stored(), layer.state.rounded.scale_grid(), layer.bias, layer.spec.act, input_scale
    )
    assert torch.equal(stored(layer.prepare(x)), real)


@torch.no_grad()
def test_a_bfloat16_layer_keeps_its_type() -> None:
    layer = QuantLinear(nn.Linear(32, 16).bfloat16(), spec("int8"))
    layer.round()
    with in_mode([layer], "real"):
        assert layer(torch.randn(3, 32).bfloat16()).dtype == torch.bfloat16


def test_codes_of_two_types_are_refused() -> None:
    with pytest.raises(UnsupportedSpec, match="one type"):
        multiply(codes((4, 16), torch.int8, "cpu"), codes((4, 16), torch.float8_e4m3fn, "cpu"))
