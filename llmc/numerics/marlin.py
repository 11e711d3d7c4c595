"""The order in which Marlin (arXiv:2408.11743) reads int4 weights and their scales; exact both ways.

A warp's tensor-core tile is 16 inputs by 64 outputs. Its 1024 codes lie so that each of the 32 lanes finds its own ones
in four 32-bit words, and the halves of a word where two shifts and a mask give operands of the multiplication.
"""

from __future__ import annotations

import torch


def pack_marlin(bits: torch.Tensor) -> torch.Tensor:
    """4-bit codes (inputs, outputs) as int32 (inputs / 16, outputs * 2)."""
    inputs, outputs = bits.shape
    # an input is (tile, half of 8, pair, which of the pair), an output (tile, 16-wide part, half of 8, column)
    tiles = bits.to(torch.int64).reshape(inputs // 16, 2, 4, 2, outputs // 64, 4, 2, 8)
    # lane = (column, pair), word = part; in a word from low to high: which of the pair, output half, input half
    words = tiles.permute(0, 4, 7, 2, 5, 3, 6, 1).reshape(inputs // 16, outputs * 2, 8)
    packed = (words << 4 * torch.arange(8, device=bits.device)).sum(-1)
    return packed.to(torch.uint32).view(torch.int32)


def unpack_marlin(packed: torch.Tensor) -> torch.Tensor:
    """The inverse of `pack_marlin`."""
    tiles, columns = packed.shape
    words = packed[..., None] >> 4 * torch.arange(8, device=packed.device, dtype=torch.int32) & 0xF
    lanes = words.reshape(tiles, columns // 128, 8, 4, 4, 2, 2, 2)
    return lanes.permute(0, 7, 3, 5, 1, 4, 6, 2).reshape(tiles * 16, columns // 2).to(torch.uint8)


def permute_marlin_scales(scales: torch.Tensor) -> torch.Tensor:
    """Scales (groups, outputs) in the order in which lanes read them; applied twice, it gives them back."""
    groups, outputs = scales.shape
    return scales.reshape(groups, outputs // 64, 8, 8).transpose(2, 3).reshape(groups, outputs).contiguous()
