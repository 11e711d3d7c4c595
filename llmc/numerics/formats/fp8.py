"""8-bit floats: e4m3 (finer, up to 448) and e5m2 (coarser, up to 57344)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch

from llmc.numerics.float_round import half_away, qtorch_round
from llmc.numerics.formats.base import Format, Rounding


class Float8(Format):
    """Base of the 8-bit float formats."""

    bits: ClassVar[int] = 8
    integer: ClassVar[bool] = False
    exponent_bits: ClassVar[int]
    mantissa_bits: ClassVar[int]

    def round(self, x: torch.Tensor, rounding: Rounding = "nearest_even") -> torch.Tensor:
        # clamp first: older torch turns what is out of range into NaN, and e5m2 still overflows to inf
        x = x.clamp(-self.max, self.max)
        if rounding == "nearest_even":
            return x.to(getattr(torch, self.dtype)).to(torch.float32)
        by = half_away if rounding == "half_away" else qtorch_round
        return by(x, self.exponent_bits, self.mantissa_bits).clamp(-self.max, self.max)


class Fp8E4M3(Float8):
    """fp8 e4m3fn: 3 mantissa bits, up to 448, no infinity."""

    name: Literal["fp8_e4m3"] = "fp8_e4m3"
    max: ClassVar[float] = 448.0
    dtype: ClassVar[str] = "float8_e4m3fn"
    exponent_bits: ClassVar[int] = 4
    mantissa_bits: ClassVar[int] = 3


class Fp8E5M2(Float8):
    """fp8 e5m2: 2 mantissa bits, up to 57344."""

    name: Literal["fp8_e5m2"] = "fp8_e5m2"
    max: ClassVar[float] = 57344.0
    dtype: ClassVar[str] = "float8_e5m2"
    exponent_bits: ClassVar[int] = 5
    mantissa_bits: ClassVar[int] = 2
