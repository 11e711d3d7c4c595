"""A linear under quantization."""

import copy

import pytest
import torch
from torch import nn

from llmc.layers.linear import LayerState, QuantLinear, in_mode
from llmc.layers.transforms import Rotate, Scale, Transform
from llmc.numerics.quantize import fake_quantize
from llmc.numerics.spec import LayerSpec, TensorSpec

W8A8 = LayerSpec(
    weight=TensorSpec(format="int8", granularity="per_channel"), act=TensorSpec(format="int8", granularity="per_token")
)
W4A16 = LayerSpec(weight=TensorSpec(format="int4", granularity="per_group", group_size=8))


def layer(spec: LayerSpec = W8A8, dtype: torch.dtype = torch.float32) -> tuple[QuantLinear, torch.Tensor]:
    torch.manual_seed(0)
    return QuantLinear(nn.Linear(32, 24).to(dtype), spec), torch.randn(2, 7, 32).to(dtype)


def changes() -> list[Transform]:
    generator = torch.Generator().manual_seed(1)
    q, _ = torch.linalg.qr(torch.randn(32, 32, generator=generator))
    return [Scale(torch.rand(32, generator=generator) + 0.5), Rotate((q,))]


@torch.no_grad()
def test_in_float_mode_it_is_the_layer_that_it_replaced() -> None:
    linear = nn.Linear(32, 24)
    x = torch.randn(5, 32)
    assert torch.equal(QuantLinear(linear, W8A8)(x), linear(x))


@torch.no_grad()
@pytest.mark.parametrize("order", [(0,), (1,), (0, 1), (1, 0)])
def test_a_change_of_basis_keeps_the_float_output_and_can_be_undone(order: tuple[int, ...]) -> None:
    linear, x = layer()
    wanted = linear(x)
    for index in order:
        linear.transform(changes()[index])
    up, down = torch.randn(24, 3), torch.randn(3, 32)
    linear.split_lowrank(up, down)
    with in_mode([linear], "transformed"):
        torch.testing.assert_close(linear(x), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(linear.restored_weight(), linear.weight, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_rows_can_absorb_a_later_scale() -> None:
    linear, x = layer()
    wanted = linear(x)
    multiplier = torch.rand(24) + 0.5
    linear.transform_output(Scale(multiplier))
    with in_mode([linear], "transformed"):
        torch.testing.assert_close(linear(x), wanted * multiplier)
    torch.testing.assert_close(linear.restored_weight(), linear.weight)


@torch.no_grad()
@pytest.mark.parametrize("spec", [W8A8, W4A16], ids=str)
def test_quantized_output_is_the_product_of_what_is_rounded(spec: LayerSpec) -> None:
    linear, x = layer(spec)
    linear.round()
    assert linear.state.rounded is not None
    wanted = nn.functional.linear(fake_quantize(x, spec.act), linear.state.rounded.dequantize(), linear.bias)
    with in_mode([linear], "quantized"):
        torch.testing.assert_close(linear(x), wanted, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_in_bf16_codes_are_multiplied_exactly() -> None:
    linear, x = layer(dtype=torch.bfloat16)
    linear.round()
    exact = copy.deepcopy(linear).float()
    with in_mode([linear, exact], "quantized"):
        torch.testing.assert_close(linear(x).float(), exact(x.float()), rtol=2**-7, atol=2e-3)


def test_the_basis_cannot_change_after_rounding() -> None:
    linear, _ = layer()
    linear.round()
    with pytest.raises(RuntimeError, match="comes last"):
        linear.transform(changes()[0])


def test_the_master_weight_is_never_touched() -> None:
    linear, _ = layer()
    before = linear.weight.clone()
    linear.transform(changes()[0])
    linear.round()
    assert torch.equal(linear.weight, before)
    linear.state = LayerState()
    assert torch.equal(linear.float_weight(), before)
