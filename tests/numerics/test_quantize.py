"""Rounding a tensor: every granularity, every format."""

import pytest
import torch

from llmc.errors import UnsupportedSpec
from llmc.numerics.formats.base import Format
from llmc.numerics.quantize import fake_quantize, quantize, sliced, unsliced
from llmc.numerics.spec import TensorSpec
from llmc.plugin import discover

FORMATS = discover("llmc.numerics.formats", Format)
GRANULARITIES = [("per_tensor", None), ("per_channel", None), ("per_token", None), ("per_group", 8), ("per_block", 12)]


def spec(name: str, granularity: str = "per_channel", size: int | None = None, **more: object) -> TensorSpec:
    return TensorSpec.model_validate({"format": name, "granularity": granularity, "group_size": size, **more})


def outliers(rows: int = 40, columns: int = 32) -> torch.Tensor:
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    x[:, 3] *= 50
    x[5] = 0
    return x


@pytest.mark.parametrize("granularity, size", GRANULARITIES)
@pytest.mark.parametrize("name", FORMATS)
def test_fake_quantization_is_quantization_dequantized_bit_for_bit(
    name: str, granularity: str, size: int | None
) -> None:
    x, how = outliers(), spec(name, granularity, size)
    assert torch.equal(fake_quantize(x, how), quantize(x, how).dequantize())


@pytest.mark.parametrize("name", FORMATS)
def test_rounding_what_is_rounded_changes_nothing(name: str) -> None:
    fmt = FORMATS[name]()
    codes = fmt.round(torch.linspace(-1.2 * fmt.max, 1.2 * fmt.max, 4001))
    assert torch.equal(fmt.round(codes), codes)
    assert torch.equal(fmt.unpack(fmt.pack(codes)), codes)


@pytest.mark.parametrize("name", [name for name, fmt in FORMATS.items() if fmt.integer])
@pytest.mark.parametrize("symmetric", [True, False])
def test_an_integer_is_at_most_half_a_step_away(name: str, symmetric: bool) -> None:
    x = outliers()
    rounded = quantize(x, spec(name, symmetric=symmetric))
    assert ((rounded.dequantize() - x).abs() <= 0.5001 * rounded.scale).all()


def test_an_asymmetric_grid_is_finer_where_all_values_have_one_sign() -> None:
    x = torch.rand(16, 64, generator=torch.Generator().manual_seed(1))
    error = {s: (fake_quantize(x, spec("int8", symmetric=s)) - x).norm() for s in (True, False)}
    assert error[False] < 0.6 * error[True]


def test_a_symmetric_grid_leaves_out_the_most_negative_code() -> None:
    codes = quantize(-torch.rand(4, 4), spec("int8")).codes
    assert codes.min() == -127


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_scales_are_exact_in_the_type_the_target_stores(dtype: str) -> None:
    scale = quantize(outliers(), spec("int8", scale_dtype=dtype)).scale
    assert torch.equal(scale, scale.to(getattr(torch, dtype)).float())


def test_a_row_of_zeros_stays_zero() -> None:
    for name in FORMATS:
        assert (fake_quantize(torch.zeros(2, 8), spec(name)) == 0).all()


@pytest.mark.parametrize("shape", [(24, 24), (25, 30), (5, 7)])
def test_blocks_may_stick_out(shape: tuple[int, int]) -> None:
    x, how = torch.randn(shape), spec("fp8_e4m3", "per_block", 12)
    assert torch.equal(unsliced(sliced(x, how), how, shape), x)
    grid = quantize(x, how).scale_grid()
    assert grid.shape == (-(-shape[0] // 12), -(-shape[1] // 12))
    assert grid[0, 0] == x[:12, :12].abs().max() / 448


def test_groups_that_do_not_divide_a_row_are_refused() -> None:
    with pytest.raises(UnsupportedSpec, match="per_group 5 does not divide the 32 inputs"):
        quantize(outliers(), spec("int4", "per_group", 5))
