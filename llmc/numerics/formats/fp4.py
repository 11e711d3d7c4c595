"""4-bit floats."""

from __future__ import annotations

from typing import Literal

from llmc.numerics.formats.small_float import E2M1


class Fp4E2M1(E2M1):
    """fp4 e2m1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their mirror."""

    name: Literal["fp4_e2m1"] = "fp4_e2m1"
