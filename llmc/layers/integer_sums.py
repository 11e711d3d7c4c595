"""How kernels with a fixed activation grid finish their int32 sums: the bias is added in the sums' own unit, then both
are scaled at once. So the bias is rounded to that unit, and the scale to what the hardware keeps of it.

The same functions make the stored tensors and the fake-quant model's arithmetic.
"""

from __future__ import annotations

import torch

from llmc.numerics.spec import SumScale

DROPPED = 13  # bits of a float32 that fp19 has not


def sum_scale(act: torch.Tensor, weight: torch.Tensor, kept: SumScale) -> torch.Tensor:
    """What one unit of the sums is worth: the product of both scales."""
    product = act * weight
    if kept == "float32":
        return product
    # to nearest, ties away from zero: what the hardware cuts off is zero then
    half = 1 << (DROPPED - 1)
    return ((product.view(torch.int32) + half) >> DROPPED << DROPPED).view(torch.float32)


def bias_in_units(bias: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
    """The bias as whole units of the sums, in float64: what a unit makes too large for int32 stays visible."""
    return (bias.double() / unit.double()).round()
