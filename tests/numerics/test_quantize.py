"""Rounding a tensor: every granularity, every format."""

import pytest
import torch

from llmc.errors import UnsupportedSpec
from llmc.numerics.formats.base import Format
from llmc.numerics.formats.small_float import SmallFloat
from llmc.numerics.quantize import fake_quantize, quantize, sliced, unsliced
from llmc.numerics.spec import TensorSpec
from llmc.plugin import discover

FORMATS = discover("llmc.numerics.formats", Format)
GRANULARITIES = [("per_tensor", None), ("per_channel", None), ("per_token", None), ("per_group", 8), ("per_block", 12)]
OF_ROWS = [name for name, fmt in FORMATS.items() if fmt.steps_every is not None]  # each with a scale and steps
CASES = [
    (name, *how)
    for name, fmt in FORMATS.items() if name not in OF_ROWS
    for how in (GRANULARITIES if fmt.group_size is None else [("per_group", fmt.group_size)])
]  # fmt: skip
ALL_CASES = [*CASES, *((name, "per_channel", None) for name in OF_ROWS)]


def spec(name: str, granularity: str | None = None, size: int | None = None, **more: object) -> TensorSpec:
    if granularity is None and FORMATS[name].group_size is None:
        granularity = "per_channel"
    return TensorSpec.model_validate({"format": name, "granularity": granularity, "group_size": size, **more})


def outliers(rows: int = 40, columns: int = 512) -> torch.Tensor:
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    x[:, 3] *= 50
    x[5] = 0
    return x


def values_of(fmt: Format) -> torch.Tensor:
    """Every value of the grid, from the definition."""
    if not isinstance(fmt, SmallFloat):
        return torch.arange(-fmt.max, fmt.max + 1, dtype=torch.float64)
    bias, steps = 2 ** (fmt.exponent_bits - 1) - 1, 2**fmt.mantissa_bits
    magnitudes = {
        ((exponent > 0) + mantissa / steps) * 2.0 ** (max(exponent, 1) - bias)
        for exponent in range(2**fmt.exponent_bits)
        for mantissa in range(steps)
    }
    return torch.tensor(sorted({s * m for m in magnitudes if m <= fmt.max for s in (1, -1)}), dtype=torch.float64)


@pytest.mark.parametrize("name, granularity, size", ALL_CASES)
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


@pytest.mark.parametrize("name", FORMATS)
def test_every_value_of_the_grid_is_kept_and_stored_exactly(name: str) -> None:
    fmt = FORMATS[name]()
    values = values_of(fmt).float()
    for rounding in ("nearest_even", "half_away"):
        assert torch.equal(fmt.round(values, rounding), values)
    assert torch.equal(fmt.unpack(fmt.pack(values)), values)


@pytest.mark.parametrize("rounding", ["nearest_even", "half_away"])
@pytest.mark.parametrize("name, granularity, size", CASES)
def test_a_code_is_the_nearest_of_the_grid(name: str, granularity: str, size: int | None, rounding: str) -> None:
    x, how = outliers(), spec(name, granularity, size, rounding=rounding)
    rounded = quantize(x, how)
    wanted = (sliced(x, how) / rounded.scale).double()
    nearest = (wanted[..., None] - values_of(how.format)).abs().amin(-1)
    assert torch.equal((rounded.values() - wanted).abs(), nearest)


@pytest.mark.parametrize("name", [name for name, fmt in FORMATS.items() if fmt.integer])
@pytest.mark.parametrize("symmetric", [True, False])
def test_an_integer_is_at_most_half_a_step_away(name: str, symmetric: bool) -> None:
    x = outliers()
    rounded = quantize(x, spec(name, symmetric=symmetric))
    assert ((rounded.dequantize() - x).abs() <= 0.5001 * rounded.scale).all()


@pytest.mark.parametrize("name, granularity, size", ALL_CASES)
def test_what_is_infinite_or_huge_saturates(name: str, granularity: str, size: int | None) -> None:
    for large in (torch.inf, 3e38):
        x = outliers()
        x[1, 2], x[2, 7] = large, -large
        for dtype in ("float32", "bfloat16", "float16"):
            rounded = fake_quantize(x, spec(name, granularity, size, scale_dtype=dtype))
            assert rounded.isfinite().all()
            assert rounded[1, 2] > 10_000 and rounded[2, 7] < -10_000


@pytest.mark.parametrize("name", [name for name, fmt in FORMATS.items() if fmt.integer])
def test_an_asymmetric_grid_survives_infinity(name: str) -> None:
    x = outliers()
    x[1, 2] = torch.inf
    assert fake_quantize(x, spec(name, symmetric=False)).isfinite().all()


@pytest.mark.parametrize("name, granularity, size", ALL_CASES)
def test_zeros_stay_zero(name: str, granularity: str, size: int | None) -> None:
    how = spec(name, granularity, size)
    assert (fake_quantize(torch.zeros(2, 512), how) == 0).all()
    x = outliers()
    assert (fake_quantize(x, how)[x == 0] == 0).all()


def test_an_asymmetric_grid_is_finer_where_all_values_have_one_sign() -> None:
    x = torch.rand(16, 64, generator=torch.Generator().manual_seed(1))
    error = {s: (fake_quantize(x, spec("int8", symmetric=s)) - x).norm() for s in (True, False)}
    assert error[False] < 0.6 * error[True]


def test_a_symmetric_grid_leaves_out_the_most_negative_code() -> None:
    codes = quantize(-torch.rand(4, 4), spec("int8")).codes
    assert codes.min() == -127


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", FORMATS)
def test_scales_are_exact_in_the_type_the_target_stores(name: str, dtype: str) -> None:
    rounded = quantize(outliers(), spec(name, scale_dtype=dtype))
    stored = rounded.stored_scales()
    assert stored.dtype == getattr(torch, FORMATS[name].scale_dtype or dtype)
    whole = torch.ones(()) if rounded.whole is None else rounded.whole
    whole = whole if whole.ndim == 0 else whole.reshape(stored.shape)
    assert torch.equal(stored.float() * whole, rounded.scale_grid())


def test_a_rank_three_tensor_of_tokens_keeps_its_shape() -> None:
    x = outliers().reshape(2, 20, 512)
    for name in FORMATS:
        assert torch.equal(fake_quantize(x, spec(name)), fake_quantize(x.reshape(40, 512), spec(name)).reshape(x.shape))


@pytest.mark.parametrize("shape", [(24, 24), (25, 30), (5, 7)])
def test_blocks_may_stick_out(shape: tuple[int, int]) -> None:
    x, how = torch.randn(shape), spec("fp8_e4m3", "per_block", 12)
    assert torch.equal(unsliced(sliced(x, how), how, shape), x)
    grid = quantize(x, how).scale_grid()
    assert grid.shape == (-(-shape[0] // 12), -(-shape[1] // 12))
    assert grid[0, 0] == x[:12, :12].abs().max() / 448


def test_groups_that_do_not_divide_a_row_are_refused() -> None:
    with pytest.raises(UnsupportedSpec, match=r"per_group 5 does not divide the 512 inputs.*choose a group_size"):
        quantize(outliers(), spec("int4", "per_group", 5))
    with pytest.raises(UnsupportedSpec, match="mxfp4 per_group 32 does not divide the 48 inputs of a layer; leave"):
        quantize(outliers(columns=48), spec("mxfp4"))


@pytest.mark.parametrize(
    "own", [{"granularity": "per_channel"}, {"granularity": "per_group", "group_size": 8}], ids=str
)
@pytest.mark.parametrize("symmetric", [True, False])
def test_some_rows_of_a_quantized_matrix_are_those_of_the_whole(own: dict[str, object], symmetric: bool) -> None:
    spec = TensorSpec.model_validate({"format": "int4", "symmetric": symmetric} | own)
    whole, rows = quantize(torch.randn(12, 16), spec), slice(1, None, 5)
    assert torch.equal(whole.of_rows(rows).dequantize(), whole.dequantize()[rows])


def test_the_middle_of_an_offset_grid_is_exact_as_it_is_kept_and_the_range_need_not_hold_zero() -> None:
    x = 2 + torch.rand(16, 64, generator=torch.Generator().manual_seed(1))
    how = spec("int4", "per_group", 32, symmetric=False, scale_dtype="bfloat16", offset_dtype="bfloat16")
    rounded = quantize(x, how)
    assert rounded.zero is not None
    middle = -rounded.zero * rounded.scale
    torch.testing.assert_close(middle, middle.bfloat16().float(), rtol=1e-6, atol=0)
    assert float((rounded.dequantize() - x).abs().max()) < 0.06
    assert torch.equal(fake_quantize(x, how), rounded.dequantize())
