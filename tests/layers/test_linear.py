"""A linear under quantization."""

import copy

import pytest
import torch
from torch import nn

from llmc.layers.linear import LayerState, QuantLinear, in_mode
from llmc.layers.transforms import Rotate, Scale, Transform
from llmc.numerics.quantize import at_once, fake_quantize, quantize
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
@pytest.mark.parametrize("later", [(0,), (1,), (0, 1), (1, 0)])
def test_rows_can_absorb_a_later_change(later: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    linear, x = QuantLinear(nn.Linear(24, 32), W8A8), torch.randn(7, 24)
    wanted = linear(x)
    changed = wanted
    for index in later:
        linear.transform_output(changes()[index])
        changed = changes()[index].input(changed)
    with in_mode([linear], "transformed"):
        found = linear(x)
    torch.testing.assert_close(found, changed)
    torch.testing.assert_close(linear.restored_weight(), linear.weight)
    torch.testing.assert_close(linear.restored_output(found), wanted)


@torch.no_grad()
@pytest.mark.parametrize("later", [(), (0,), (1,)])
def test_some_output_channels_can_be_had_alone(later: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    linear, some = QuantLinear(nn.Linear(24, 32), W8A8), slice(1, None, 5)
    linear.transform(Scale(torch.rand(24) + 0.5))
    for index in later:
        linear.transform_output(changes()[index])
    assert linear.mixes_outputs == (1 in later)
    torch.testing.assert_close(linear.float_weight(some), linear.float_weight()[some])
    linear.round()
    assert torch.equal(linear.rounded_weight(some), linear.rounded_weight()[some])
    if not linear.mixes_outputs:
        torch.testing.assert_close(linear.restored_weight(some), linear.restored_weight()[some])
        y = torch.randn(7, 32)
        assert torch.equal(linear.restored_output(y[:, some], some), linear.restored_output(y)[:, some])


@torch.no_grad()
@pytest.mark.parametrize(
    "weight",
    [
        TensorSpec(format="int8", granularity="per_channel", scale_dtype="bfloat16"),
        TensorSpec(format="int4", granularity="per_group", group_size=64, symmetric=False),
        TensorSpec(format="fp8_e4m3", granularity="per_tensor"),
        TensorSpec(format="nvfp4", granularity="per_group", group_size=16),
    ],
    ids=str,
)
def test_a_large_weight_is_rounded_as_if_it_were_all_at_once(weight: TensorSpec) -> None:
    torch.manual_seed(0)
    linear = QuantLinear(nn.Linear(1024, 1500), LayerSpec(weight=weight))
    assert at_once(1500, 1024, torch.device("cpu")) < 1500
    linear.transform(Scale(torch.rand(1024) + 0.5))
    linear.round()
    wanted, found = quantize(linear.float_weight(), weight), linear.state.rounded
    assert found is not None and found.shape == wanted.shape
    assert torch.equal(found.codes.view(torch.uint8), wanted.codes.view(torch.uint8))
    assert torch.equal(found.scale, wanted.scale)
    assert torch.equal(found.dequantize(), wanted.dequantize())


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
