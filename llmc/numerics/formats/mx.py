"""Microscaling (OCP MX 1.0): 32 neighbours of a row share a scale that is a power of two, stored as e8m0."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field

from llmc.numerics.float_round import power_of_two
from llmc.numerics.formats.base import Rounding
from llmc.numerics.formats.small_float import E2M1, E3M2, E4M3, SmallFloat


class Mx(SmallFloat):
    """Base of the microscaling formats."""

    group_size: ClassVar[int | None] = 32
    scale_dtype: ClassVar[str | None] = "float8_e8m0fnu"
    exponent: Literal["ceil", "floor"] = Field(
        "ceil",
        description="of a scale; ceil: the least that saturates nothing, as LightX2V; floor: that of the OCP text, "
        "as MindIE, under which a group's largest values may saturate",
    )

    def scale(self, absmax: torch.Tensor, whole: torch.Tensor | None = None) -> torch.Tensor:
        # absmax = fraction * 2^exponent and max = top * 2^top_exponent, with fractions in [0.5, 1): exact, no logarithm
        fraction, exponent = torch.frexp(absmax)
        top, top_exponent = math.frexp(self.max)
        exponent -= top_exponent
        if self.exponent == "ceil":
            exponent += fraction > top
        return power_of_two(exponent.masked_fill_(absmax == 0, 0))


class MxFp8(Mx, E4M3):
    """mxfp8: e4m3, a power of two for every 32 of a row."""

    name: Literal["mxfp8"] = "mxfp8"


class MxFp6(Mx, E3M2):
    """mxfp6: e3m2, a power of two for every 32 of a row."""

    name: Literal["mxfp6"] = "mxfp6"


class MxFp4(Mx, E2M1):
    """mxfp4: e2m1, a power of two for every 32 of a row."""

    name: Literal["mxfp4"] = "mxfp4"


class MxFp4Dual(Mx, E2M1):
    """mxfp4dual: mxfp4 under a float32 scale for every 512 of a row, which takes their largest value to 6."""

    name: Literal["mxfp4dual"] = "mxfp4dual"
    between: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="what is kept of values between the two levels; NPUs: the type of the activations"
    )
    whole_max: ClassVar[float | None] = E2M1.max
    whole_groups: ClassVar[int | None] = 16

    def scale(self, absmax: torch.Tensor, whole: torch.Tensor | None = None) -> torch.Tensor:
        assert whole is not None
        return super().scale(self._kept(absmax / whole)) * whole

    def round(self, x: torch.Tensor, rounding: Rounding = "nearest_even", mirrored: bool = False) -> torch.Tensor:
        # x is in units of both scales, and the lower one, a power of two, changes nothing of what is kept
        return super().round(self._kept(x), rounding, mirrored)

    def _kept(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(getattr(torch, self.between)).to(torch.float32)
