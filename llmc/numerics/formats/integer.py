"""Signed integers of 2 to 8 bits. A symmetric grid leaves out the most negative code, so that it is its own mirror."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch

from llmc.errors import UnsupportedSpec
from llmc.numerics.formats.base import Format, Rounding


class Integer(Format):
    """Base of the integer formats; `lowest` is the extra code that only an asymmetric grid uses."""

    integer: ClassVar[bool] = True
    lowest: ClassVar[float]
    dtype: ClassVar[str] = "int8"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.max = float(2 ** (cls.bits - 1) - 1)
        cls.lowest = -cls.max - 1

    def round(self, x: torch.Tensor, rounding: Rounding = "nearest_even", mirrored: bool = False) -> torch.Tensor:
        return self.round_(x.clone(), rounding, mirrored)

    def round_(self, x: torch.Tensor, rounding: Rounding = "nearest_even", mirrored: bool = False) -> torch.Tensor:
        if rounding == "qtorch":
            raise UnsupportedSpec(
                f"use_qtorch rounds float formats; {self.__class__.__name__} is an integer grid: leave it out"
            )
        match rounding:
            case "nearest_even":
                x.round_()
            case "toward_zero":
                x.trunc_()
            case _:
                x = torch.sign(x) * torch.floor(x.abs() + 0.5)
        return x.clamp_(-self.max if mirrored else self.lowest, self.max)


class Int8(Integer):
    """8-bit signed integers."""

    name: Literal["int8"] = "int8"
    bits: ClassVar[int] = 8


class Int6(Integer):
    """6-bit signed integers."""

    name: Literal["int6"] = "int6"
    bits: ClassVar[int] = 6


class Int4(Integer):
    """4-bit signed integers."""

    name: Literal["int4"] = "int4"
    bits: ClassVar[int] = 4


class Int3(Integer):
    """3-bit signed integers."""

    name: Literal["int3"] = "int3"
    bits: ClassVar[int] = 3


class Int2(Integer):
    """2-bit signed integers."""

    name: Literal["int2"] = "int2"
    bits: ClassVar[int] = 2
