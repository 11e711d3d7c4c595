"""NVFP4: 16 neighbours of a row share a scale in e4m3, under one float32 scale of the whole tensor."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch

from llmc.numerics.formats.small_float import E2M1

SMALLEST, LARGEST = 2.0**-9, 448.0  # of the e4m3 scales


class NvFp4(E2M1):
    """nvfp4: e2m1, an e4m3 scale for every 16 of a row, a float32 one for the tensor."""

    name: Literal["nvfp4"] = "nvfp4"
    group_size: ClassVar[int | None] = 16
    scale_dtype: ClassVar[str | None] = "float8_e4m3fn"
    whole_max: ClassVar[float | None] = E2M1.max * LARGEST

    def scale(self, absmax: torch.Tensor, whole: torch.Tensor | None = None) -> torch.Tensor:
        assert whole is not None
        # a scale of 0, which a group far below the others would get, divides nothing: the smallest one fits it better
        fitting = (absmax / whole / self.max).clamp_(SMALLEST, LARGEST)
        return fitting.to(torch.float8_e4m3fn).to(torch.float32) * whole
