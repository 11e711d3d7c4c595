"""Where most values of each head lie: the shortest window that holds a given share of them, from counts.

Counts take a fixed room however many values go by, and add up over calls and ranks. There is a bin for every bf16
value from 2^-16 to 2^16 in magnitude, so that nothing is lost of a bf16 network; float32 values go to the nearest bin.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SMALLEST, LARGEST = -16, 16  # exponents; what is smaller counts as 0, what is larger as the largest
STEPS = 128  # bf16 values of one exponent
SIDE = (LARGEST - SMALLEST) * STEPS  # bins of one sign
BINS = 2 * SIDE + 1  # in rising order of value, 0 in the middle
BELOW = (SMALLEST + 127) * STEPS - 1  # of bf16's own codes, the one under the first bin


def count_values(x: Tensor) -> Tensor:
    """How many values of each head (heads, values) lie in each bin, (heads, BINS)."""
    return torch.stack([torch.bincount(_bins(head), minlength=BINS) for head in x])


def shortest_window(counts: Tensor, recall: float) -> tuple[Tensor, Tensor]:
    """The ends (heads,) of the shortest window of each head that holds at least the share `recall` of its values; the
    lowest of those that are equally short."""
    values = bin_values().to(counts.device)
    upto = counts.cumsum(-1)
    before = upto - counts
    total = upto[:, -1:]
    # 0.9999 x 10000 is a little more than 9999 in floating point; a window of no values would have no ends
    wanted = torch.tensor([[max(1, math.ceil(round(recall * int(n), 4)))] for n in total], device=counts.device)
    last = torch.searchsorted(upto, before + wanted)
    possible = (counts > 0) & (before + wanted <= total)
    width = torch.where(possible, values[last.clamp(max=BINS - 1)] - values, torch.inf)
    first = width.argmin(-1)
    return values[first], values[last.gather(-1, first[:, None]).squeeze(-1)]


def bin_values() -> Tensor:
    """The value of each bin, float32."""
    side = torch.arange(BELOW + 1, BELOW + SIDE + 1, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).float()
    return torch.cat([-side.flip(0), torch.zeros(1), side])


def _bins(values: Tensor) -> Tensor:
    codes = values.to(torch.bfloat16).contiguous().view(torch.int16).to(torch.int32)
    magnitude = ((codes & 0x7FFF) - BELOW).clamp_(0, SIDE)
    return torch.where(codes < 0, SIDE - magnitude, SIDE + magnitude)
