"""Formats with groups and scales of their own: mxfp8, mxfp6, mxfp4, nvfp4."""

import math

import pytest
import torch

from llmc.errors import UnsupportedSpec
from llmc.numerics.formats.base import Format
from llmc.numerics.formats.mx import Mx, MxFp4, MxFp6, MxFp8
from llmc.numerics.quantize import Quantized, fake_quantize, quantize, scales, sliced, whole_scale
from llmc.numerics.spec import TensorSpec

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float64)
NVFP4 = TensorSpec.model_validate({"format": "nvfp4"})


def sizes_apart(rows: int = 64, columns: int = 128) -> torch.Tensor:
    """Values whose groups differ in size by a factor of a million."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(rows, columns, generator=random)
    return x * 10 ** torch.empty(rows, columns // 16).uniform_(-4, 2, generator=random).repeat_interleave(16, 1)


def mx(fmt: Format) -> TensorSpec:
    return TensorSpec(format=fmt, granularity="per_group", group_size=32)


@pytest.mark.parametrize("fmt", [MxFp8(), MxFp6(), MxFp4()], ids=lambda fmt: fmt.name)
def test_a_scale_is_the_least_power_of_two_that_saturates_nothing(fmt: Mx) -> None:
    x, how = sizes_apart(), mx(fmt)
    scale = quantize(x, how).scale
    fraction, _ = torch.frexp(scale)
    absmax = sliced(x, how).abs().amax(-1, keepdim=True)
    assert (fraction == 0.5).all()
    assert (absmax <= fmt.max * scale).all() and (absmax > fmt.max * scale / 2).all()


@pytest.mark.parametrize("cls", [MxFp8, MxFp6, MxFp4])
def test_the_exponents_follow_the_logarithms_of_their_rules(cls: type[MxFp8 | MxFp6 | MxFp4]) -> None:
    absmax = torch.cat(
        [x * 2.0**k for k in range(-20, 20) for x in (torch.linspace(1, 2, 129), torch.tensor([28 / 16]))]
    )
    emax = math.floor(math.log2(cls.max))
    ceil = [2.0 ** math.ceil(math.log2(a / cls.max)) for a in absmax.tolist()]
    floor = [2.0 ** (math.floor(math.log2(a)) - emax) for a in absmax.tolist()]
    assert cls(exponent="ceil").scale(absmax).tolist() == ceil
    assert cls(exponent="floor").scale(absmax).tolist() == floor


def test_floor_saturates_the_largest_values_and_ceil_none() -> None:
    x = torch.full((1, 32), 1.0)
    x[0, 0] = 7.5
    assert fake_quantize(x, mx(MxFp4(exponent="floor"))).max() == 6
    assert fake_quantize(x, mx(MxFp4(exponent="ceil"))).max() == 8


def test_exponents_stay_in_the_range_of_e8m0() -> None:
    absmax = torch.tensor([2.0**-149, 2.0**-127, 2.0**-100, 2.0**127])
    for fmt in (MxFp8(), MxFp8(exponent="floor")):
        scale = fmt.scale(absmax)
        assert scale.tolist() == [2.0**-127, 2.0**-127, 2.0**-108, 2.0 ** (127 - 8)]
        assert torch.equal(scale.to(torch.float8_e8m0fnu).float(), scale)


def test_scales_are_stored_as_their_exponents() -> None:
    stored = quantize(sizes_apart(), mx(MxFp6())).stored_scales()
    assert stored.dtype == torch.float8_e8m0fnu and stored.shape == (64, 4)
    assert (stored.view(torch.uint8) < 140).all()


def test_nvfp4_is_its_formula() -> None:
    x = torch.randn(64, 128, generator=torch.Generator().manual_seed(2))
    exact = x.double().reshape(-1, 16)
    gs = 2688 / exact.abs().max()
    sf = (gs * exact.abs().amax(-1, keepdim=True) / 6).float().to(torch.float8_e4m3fn).double()
    wanted = exact * gs / sf
    codes = E2M1[(wanted.abs()[..., None] - E2M1).abs().argmin(-1)] * wanted.sign()
    rounded = quantize(x, NVFP4)
    assert torch.equal(rounded.values().double(), codes)
    assert torch.equal(rounded.stored_scales().double().reshape(-1, 1), sf)
    assert rounded.whole is not None and abs(rounded.whole.item() * gs - 1) < 1e-6
    torch.testing.assert_close(rounded.dequantize().double(), (codes * sf / gs).reshape(64, 128), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_both_levels_of_nvfp4_give_the_values_back_bit_for_bit(dtype: str) -> None:
    rounded = quantize(sizes_apart(), TensorSpec.model_validate({"format": "nvfp4", "scale_dtype": dtype}))
    assert rounded.whole is not None
    scale = rounded.stored_scales().float() * rounded.whole
    values = rounded.stored().float().reshape(-1, 16) * scale.reshape(-1, 1)
    assert torch.equal(values.reshape(64, 128), rounded.dequantize())


def test_a_narrow_scale_of_the_tensor_is_exact_with_its_reciprocal_and_costs_nothing() -> None:
    x = torch.randn(256, 256, generator=torch.Generator().manual_seed(3))
    narrow = TensorSpec.model_validate({"format": "nvfp4", "scale_dtype": "bfloat16"})
    rounded = quantize(x, narrow)
    assert rounded.whole is not None
    for level in (rounded.whole, 1 / rounded.whole):
        assert level == level.to(torch.bfloat16).float()
    assert (rounded.dequantize() - x).norm() < 1.02 * (fake_quantize(x, NVFP4) - x).norm()


def test_a_group_far_below_the_others_is_not_lost_to_a_scale_of_zero() -> None:
    x = torch.zeros(1, 32)
    x[0, 0], x[0, 16] = 2688, 2.0**-9
    assert fake_quantize(x, NVFP4)[0, 16] == 2.0**-9


def test_one_level_of_nvfp4_scales_is_not_enough() -> None:
    x = sizes_apart()
    rounded = quantize(x, NVFP4)
    for function in (quantize, fake_quantize):
        with pytest.raises(UnsupportedSpec, match="scales of two levels"):
            function(x, NVFP4, rounded.scale)
    assert torch.equal(fake_quantize(x, NVFP4, rounded.scale, None, rounded.whole), rounded.dequantize())
    with pytest.raises(RuntimeError, match="whole_scale"):
        Quantized(rounded.codes, rounded.scale, None, NVFP4, rounded.shape)


def test_a_given_scale_of_the_tensor_holds_for_a_part_of_it() -> None:
    x = sizes_apart()
    whole = whole_scale(x, NVFP4)
    assert torch.equal(fake_quantize(x, NVFP4)[:4], fake_quantize(x[:4], NVFP4, whole=whole))
    assert torch.equal(scales(sliced(x, NVFP4), NVFP4)[0][:32], scales(sliced(x[:4], NVFP4), NVFP4, whole)[0])


@pytest.mark.parametrize("name, size", [("mxfp8", 32), ("mxfp6", 32), ("mxfp4", 32), ("nvfp4", 16)])
def test_the_format_alone_says_how_it_is_grouped(name: str, size: int) -> None:
    alone = TensorSpec.model_validate({"format": name})
    assert (alone.granularity, alone.group_size) == ("per_group", size)
    assert alone == TensorSpec.model_validate({"format": name, "granularity": "per_group", "group_size": size})
    for other in ({"granularity": "per_channel"}, {"group_size": 64}, {"granularity": "per_block", "group_size": size}):
        with pytest.raises(
            ValueError, match=f"{name} has one scale for every {size}.*leave granularity and group_size out"
        ):
            TensorSpec.model_validate({"format": name, **other})
    if name == "nvfp4":  # the scale of the whole tensor can be
        assert not TensorSpec.model_validate({"format": name, "dynamic": False}).dynamic
        return
    with pytest.raises(ValueError, match="none is calibrated"):
        TensorSpec.model_validate({"format": name, "dynamic": False})


def test_the_upper_scale_of_512_takes_their_largest_value_to_6_and_the_lower_ones_are_powers_of_two() -> None:
    x, how = sizes_apart(columns=1024), TensorSpec(format="mxfp4dual")
    rounded = quantize(x, how)
    assert rounded.whole is not None
    upper = rounded.whole.reshape(64, 2, 16)
    assert torch.equal(upper[..., 0], x.reshape(64, 2, 512).abs().amax(-1) / 6)
    assert torch.equal(upper, upper[..., :1].expand(-1, -1, 16))
    lower = rounded.stored_scales()
    assert lower.dtype == torch.float8_e8m0fnu and lower.shape == (64, 32)
    assert torch.equal(lower.float() * upper.reshape(64, 32), rounded.scale_grid())
    assert torch.equal(fake_quantize(x, how), rounded.dequantize())
    assert set(rounded.values().abs().unique().tolist()) == set(E2M1.tolist())


def test_two_levels_round_better_than_one() -> None:
    x = sizes_apart(columns=1024)
    one, two = (fake_quantize(x, TensorSpec(format=name)) - x for name in ("mxfp4", "mxfp4dual"))
    assert two.square().sum() < 0.9 * one.square().sum()


def test_rows_that_the_upper_groups_do_not_divide_are_refused() -> None:
    with pytest.raises(UnsupportedSpec, match="under one scale for every 512 does not divide the 768 inputs"):
        quantize(torch.ones(2, 768), TensorSpec(format="mxfp4dual"))
