"""Bits of small codes and the order of their scales in a file: exact both ways, and nothing of any target's names."""

from __future__ import annotations

import torch

from llmc.numerics.float_round import power_of_two

TILE = (128, 4)  # rows and columns of scales that a tensor core reads at once


def float_values(bits: torch.Tensor, exponent_bits: int, mantissa_bits: int) -> torch.Tensor:
    """The float32 values of small floats given as uint8 bits: sign, exponent, mantissa."""
    magnitudes = _magnitudes(exponent_bits, mantissa_bits)
    return torch.cat([magnitudes, -magnitudes]).to(bits.device)[bits.int()]


def float_bits(values: torch.Tensor, exponent_bits: int, mantissa_bits: int) -> torch.Tensor:
    """The inverse of `float_values` for values on a grid of at most 8 bits that e4m3fn, as codes are stored, holds."""
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    magnitudes = _magnitudes(exponent_bits, mantissa_bits)
    bits = torch.searchsorted(magnitudes, every.abs()) + torch.signbit(every) * len(magnitudes)
    stored = values.to(torch.float8_e4m3fn).view(torch.uint8)
    return bits.to(values.device, torch.uint8)[stored.int()]


def pack_nibbles(bits: torch.Tensor, low_first: bool) -> torch.Tensor:
    """Two 4-bit codes a byte, (..., n) to (..., n/2); the first of each pair in the low or in the high nibble."""
    first, second = bits[..., 0::2], bits[..., 1::2]
    low, high = (first, second) if low_first else (second, first)
    return low & 0xF | high << 4  # uint8: what is shifted past the top is gone


def unpack_nibbles(packed: torch.Tensor, low_first: bool) -> torch.Tensor:
    """The inverse of `pack_nibbles`."""
    pair = (packed & 0xF, packed >> 4)
    return torch.stack(pair if low_first else pair[::-1], -1).flatten(-2)


def pack_fp6(bits: torch.Tensor) -> torch.Tensor:
    """Four 6-bit codes in three bytes, a little-endian stream of bits: (..., n) to (..., 3n/4)."""
    a, b, c, d = (bits[..., i::4] for i in range(4))
    return torch.stack([a | b << 6, b >> 2 | c << 4, c >> 4 | d << 2], -1).flatten(-2)


def unpack_fp6(packed: torch.Tensor) -> torch.Tensor:
    """The inverse of `pack_fp6`."""
    x, y, z = (packed[..., i::3] for i in range(3))
    return torch.stack([x & 63, (x >> 6 | y << 2) & 63, (y >> 4 | z << 4) & 63, z >> 2], -1).flatten(-2)


def swizzle_scales(grid: torch.Tensor) -> torch.Tensor:
    """One-byte scales (rows, groups), padded with zeros to whole tiles and laid out as tensor cores read them:
    [row / 128][column / 4][row % 32][row % 128 / 32][column % 4], viewed as a matrix of the padded shape."""
    rows, columns = grid.shape
    padded = torch.nn.functional.pad(grid.view(torch.uint8), (0, -columns % TILE[1], 0, -rows % TILE[0]))
    tiles = padded.reshape(padded.shape[0] // 128, 4, 32, padded.shape[1] // 4, 4)
    return tiles.permute(0, 3, 2, 1, 4).reshape(padded.shape).view(grid.dtype)


def unswizzle_scales(swizzled: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The inverse of `swizzle_scales`, without the padding."""
    tiles = swizzled.view(torch.uint8).reshape(swizzled.shape[0] // 128, swizzled.shape[1] // 4, 32, 4, 4)
    padded = tiles.permute(0, 3, 2, 1, 4).reshape(swizzled.shape)
    return padded[:rows, :columns].contiguous().view(swizzled.dtype)


def _magnitudes(exponent_bits: int, mantissa_bits: int) -> torch.Tensor:
    """Every non-negative value in order, so that its place is its bits."""
    bias = 2 ** (exponent_bits - 1) - 1
    exponent = torch.arange(2**exponent_bits)[:, None]
    fraction = torch.arange(2**mantissa_bits) / 2**mantissa_bits
    values: torch.Tensor = (fraction + (exponent > 0)) * power_of_two(exponent.clamp(min=1) - bias)
    return values.flatten()
