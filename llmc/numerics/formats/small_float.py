"""Float grids of 4 to 8 bits, without the names: formats with plain and with block scales share them."""

from __future__ import annotations

from typing import ClassVar

import torch

from llmc.errors import UnsupportedSpec
from llmc.numerics.float_round import half_away, half_even, power_of_two, qtorch_round
from llmc.numerics.formats.base import Format, Rounding


class SmallFloat(Format):
    """Base of the float formats. What has fewer than 8 bits is held in e4m3fn, which has all its values."""

    integer: ClassVar[bool] = False
    dtype: ClassVar[str] = "float8_e4m3fn"
    exponent_bits: ClassVar[int]
    mantissa_bits: ClassVar[int]

    def round(self, x: torch.Tensor, rounding: Rounding = "nearest_even", mirrored: bool = False) -> torch.Tensor:
        if rounding == "nearest_even":
            return self.nearest_even(x)
        if rounding == "toward_zero":
            raise UnsupportedSpec(f"{self.name} is a float format, and no kernel truncates to those; round to nearest")
        by = half_away if rounding == "half_away" else qtorch_round
        return by(x.clamp(-self.max, self.max), self.exponent_bits, self.mantissa_bits).clamp_(-self.max, self.max)

    def step(self, codes: torch.Tensor, zero: torch.Tensor | None = None) -> torch.Tensor:
        lowest = 2 - 2 ** (self.exponent_bits - 1)  # the exponent of the smallest normal number
        exponent = torch.frexp(codes).exponent - 1
        return power_of_two(exponent.clamp(min=lowest) - self.mantissa_bits)

    def nearest_even(self, x: torch.Tensor) -> torch.Tensor:
        """The nearest code, ties to the even one."""
        return half_even(x, self.exponent_bits, self.mantissa_bits).clamp_(-self.max, self.max)


class Float8(SmallFloat):
    """Base of the 8-bit float formats, to which torch converts as the hardware does."""

    bits: ClassVar[int] = 8

    def nearest_even(self, x: torch.Tensor) -> torch.Tensor:
        # clamp first: older torch turns what is out of range into NaN, and e5m2 still overflows to inf
        return x.clamp(-self.max, self.max).to(getattr(torch, self.dtype)).to(torch.float32)


class E4M3(Float8):
    """3 mantissa bits, up to 448, no infinity."""

    max: ClassVar[float] = 448.0
    exponent_bits: ClassVar[int] = 4
    mantissa_bits: ClassVar[int] = 3


class E5M2(Float8):
    """2 mantissa bits, up to 57344."""

    max: ClassVar[float] = 57344.0
    dtype: ClassVar[str] = "float8_e5m2"
    exponent_bits: ClassVar[int] = 5
    mantissa_bits: ClassVar[int] = 2


class E3M2(SmallFloat):
    """2 mantissa bits, up to 28."""

    bits: ClassVar[int] = 6
    max: ClassVar[float] = 28.0
    exponent_bits: ClassVar[int] = 3
    mantissa_bits: ClassVar[int] = 2


class E2M1(SmallFloat):
    """0, 0.5, 1, 1.5, 2, 3, 4, 6 and their mirror."""

    bits: ClassVar[int] = 4
    max: ClassVar[float] = 6.0
    exponent_bits: ClassVar[int] = 2
    mantissa_bits: ClassVar[int] = 1
