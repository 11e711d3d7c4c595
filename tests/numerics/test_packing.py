"""Bits of small floats, packed bytes, and the order of scales in a file."""

import pytest
import torch

from llmc.numerics.formats.base import Format
from llmc.numerics.formats.fp4 import Fp4E2M1
from llmc.numerics.formats.fp6 import Fp6E3M2
from llmc.numerics.marlin import pack_marlin, permute_marlin_scales, unpack_marlin
from llmc.numerics.packing import (
    float_bits,
    float_values,
    pack_fp6,
    pack_nibbles,
    swizzle_scales,
    unpack_fp6,
    unpack_nibbles,
    unswizzle_scales,
)

E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
E3M2 = [0, 0.0625, 0.125, 0.1875, *(2.0**e * m for e in range(-2, 5) for m in (1, 1.25, 1.5, 1.75))]
TABLES = pytest.mark.parametrize(
    "fmt, table", [(Fp4E2M1(), E2M1), (Fp6E3M2(), E3M2)], ids=lambda of: of.name if isinstance(of, Format) else ""
)


@TABLES
def test_bits_and_values_of_every_code(fmt: Fp4E2M1 | Fp6E3M2, table: list[float]) -> None:
    layout = fmt.exponent_bits, fmt.mantissa_bits
    bits = torch.arange(2**fmt.bits, dtype=torch.uint8)
    values = torch.tensor(table + [-float(value) for value in table])
    assert torch.equal(float_values(bits, *layout), values)
    assert torch.equal(float_bits(values, *layout), bits)
    assert torch.equal(float_bits(fmt.pack(values), *layout), bits)  # e4m3fn, as codes are stored, holds them all


@TABLES
def test_every_value_stays_and_every_midpoint_goes_to_the_even_code(fmt: Fp4E2M1 | Fp6E3M2, table: list[float]) -> None:
    values = torch.tensor(table)
    low, high = values[:-1], values[1:]
    even = torch.where(torch.arange(len(low)) % 2 == 0, low, high)
    for sign in (1, -1):
        assert torch.equal(fmt.round(sign * values), sign * values)
        assert torch.equal(fmt.round(sign * (low + high) / 2), sign * even)
        assert torch.equal(fmt.round(sign * (low + high) / 2, "half_away"), sign * high)
    for towards in (torch.tensor(0.0), torch.tensor(100.0)):  # the neighbours of a midpoint know where they belong
        assert torch.equal(fmt.round(torch.nextafter((low + high) / 2, towards)), low if towards == 0 else high)


@pytest.mark.parametrize("low_first", [True, False])
def test_nibbles_come_back(low_first: bool) -> None:
    bits = torch.arange(64, dtype=torch.uint8).reshape(4, 16) % 16
    packed = pack_nibbles(bits, low_first)
    assert packed.shape == (4, 8) and packed[0, 1] == (0x32 if low_first else 0x23)
    assert torch.equal(unpack_nibbles(packed, low_first), bits)


def test_six_bit_codes_are_a_little_endian_stream_and_come_back() -> None:
    bits = torch.randint(0, 64, (5, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    packed = pack_fp6(bits)
    assert packed.shape == (5, 24)
    stream = sum(code << 6 * i for i, code in enumerate(bits[0].tolist()))
    assert bytes(packed[0].tolist()) == stream.to_bytes(24, "little")
    assert torch.equal(unpack_fp6(packed), bits)


@pytest.mark.parametrize("dtype", [torch.float8_e8m0fnu, torch.float8_e4m3fn, torch.uint8])
@pytest.mark.parametrize("shape", [(128, 4), (200, 10), (5, 3), (256, 12)])
def test_scales_lie_where_the_tensor_cores_look_and_come_back(shape: tuple[int, int], dtype: torch.dtype) -> None:
    grid = torch.randint(1, 120, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    swizzled = swizzle_scales(grid.view(dtype))
    rows, columns = swizzled.shape
    assert swizzled.dtype == dtype and rows % 128 == 0 and columns % 4 == 0
    assert torch.equal(unswizzle_scales(swizzled, *shape).view(torch.uint8), grid)
    flat = swizzled.view(torch.uint8).flatten()
    for row, column in ((0, 0), (shape[0] - 1, shape[1] - 1), (shape[0] // 2, 1)):
        tile = row // 128 * (columns // 4) + column // 4
        assert flat[tile * 512 + row % 32 * 16 + row % 128 // 32 * 4 + column % 4] == grid[row, column]


def test_marlin_packs_every_code_once_and_gives_it_back() -> None:
    codes = torch.randint(0, 16, (64, 256), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    packed = pack_marlin(codes)
    assert packed.dtype == torch.int32 and packed.shape == (4, 512)
    assert torch.equal(unpack_marlin(packed), codes)


def test_marlin_puts_the_first_codes_of_a_lane_where_its_two_shifts_find_them() -> None:
    """Lane 0 of the first tile: rows 0, 1, 8, 9 of columns 0 and 8, in the nibbles that the kernel reads in pairs."""
    places = {(0, 0): 0, (8, 0): 1, (0, 8): 2, (8, 8): 3, (1, 0): 4, (9, 0): 5, (1, 8): 6, (9, 8): 7}
    for (row, column), nibble in places.items():
        codes = torch.zeros(16, 64, dtype=torch.uint8)
        codes[row, column] = 1
        packed = pack_marlin(codes)
        assert packed[0, 0] == 1 << 4 * nibble and packed.count_nonzero() == 1


def test_marlin_scales_of_64_outputs_are_read_eight_apart() -> None:
    scales = torch.arange(128.0).reshape(1, 128)
    permuted = permute_marlin_scales(scales)
    assert permuted[0, :9].tolist() == [0, 8, 16, 24, 32, 40, 48, 56, 1] and permuted[0, 64] == 64
    assert torch.equal(permute_marlin_scales(permuted), scales)
