"""8-bit floats: e4m3 (finer, up to 448) and e5m2 (coarser, up to 57344)."""

from __future__ import annotations

from typing import Literal

from llmc.numerics.formats.small_float import E4M3, E5M2


class Fp8E4M3(E4M3):
    """fp8 e4m3fn: 3 mantissa bits, up to 448, no infinity."""

    name: Literal["fp8_e4m3"] = "fp8_e4m3"


class Fp8E5M2(E5M2):
    """fp8 e5m2: 2 mantissa bits, up to 57344."""

    name: Literal["fp8_e5m2"] = "fp8_e5m2"
