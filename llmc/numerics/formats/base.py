"""A number format: the grid that a value, already divided by its scale, is rounded to, and how a code is stored."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import torch

from llmc.plugin import Plugin

Rounding = Literal["nearest_even", "half_away", "qtorch"]


class Format(Plugin):
    """A grid of representable numbers; codes live in float32 while a layer is worked on."""

    bits: ClassVar[int]
    max: ClassVar[float]
    integer: ClassVar[bool]
    dtype: ClassVar[str]  # of a stored code, as torch names it

    @abstractmethod
    def round(self, x: torch.Tensor, rounding: Rounding = "nearest_even") -> torch.Tensor:
        """The nearest code of each float32 value, saturating at the ends."""

    def pack(self, codes: torch.Tensor) -> torch.Tensor:
        """The codes as they are stored, one element each."""
        return codes.to(getattr(torch, self.dtype))

    def unpack(self, stored: torch.Tensor) -> torch.Tensor:
        """The codes of stored elements, in float32."""
        return stored.to(torch.float32)
