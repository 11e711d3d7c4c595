"""6-bit floats."""

from __future__ import annotations

from typing import Literal

from llmc.numerics.formats.small_float import E3M2


class Fp6E3M2(E3M2):
    """fp6 e3m2: 2 mantissa bits, up to 28."""

    name: Literal["fp6_e3m2"] = "fp6_e3m2"
