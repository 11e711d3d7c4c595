"""A number format: the grid that a value, already divided by its scale, is rounded to, and how a code is stored."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch

from llmc.plugin import Plugin

Rounding = Literal["nearest_even", "half_away", "toward_zero", "qtorch"]


class Format(Plugin):
    """A grid of representable numbers; codes live in float32 while a layer is worked on."""

    bits: ClassVar[int]
    max: ClassVar[float]
    integer: ClassVar[bool]
    dtype: ClassVar[str]  # of a stored code, as torch names it
    group_size: ClassVar[int | None] = None  # set by a format that has its own: so many of a row share a scale
    scale_dtype: ClassVar[str | None] = None  # set by a format whose scales have a type of their own
    whole_max: ClassVar[float | None] = None  # set where scales lie under another one: the absmax of its values at 1
    whole_groups: ClassVar[int | None] = None  # so many groups of a row are under it; None: those of the whole tensor
    steps_every: ClassVar[int | None] = None  # set where so many of a row choose the integers that a row's scale is for

    @abstractmethod
    def round(self, x: torch.Tensor, rounding: Rounding = "nearest_even", mirrored: bool = False) -> torch.Tensor:
        """The nearest code of each float32 value, saturating at the ends; `mirrored` leaves out a lowest code that is
        the opposite of no other."""

    def round_(self, x: torch.Tensor, rounding: Rounding = "nearest_even", mirrored: bool = False) -> torch.Tensor:
        """`round` of values that nobody needs any more: a format may work in their place."""
        return self.round(x, rounding, mirrored)

    def scale(self, absmax: torch.Tensor, whole: torch.Tensor | None = None) -> torch.Tensor:
        """The scale with which values up to `absmax` fill the grid; `whole` is that of the tensor, if it has one."""
        return absmax / self.max

    def step(self, codes: torch.Tensor, zero: torch.Tensor | None = None) -> torch.Tensor:
        """How far the grid's next point is from each code, away from zero; `zero`: what the grid has beside scales."""
        return torch.ones_like(codes)

    def nearest(self, x: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """Of a format with steps: the nearest integers that groups with these have, of values in units of the scale."""
        raise NotImplementedError

    def fitting_grid(self, rows: torch.Tensor, share: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Of a format with steps: scales (rows, 1) and steps (rows, groups); `share` of the steps that fit best."""
        raise NotImplementedError

    @property
    def is_to_be_fitted(self) -> bool:
        """Whether its values are still to be chosen, for weights and what they read."""
        return False

    def fitted(self, weights: Sequence[torch.Tensor], energy: torch.Tensor) -> Format:
        """The format for weights (out, in) that read inputs of some energy (in,) each; most are alike for all."""
        return self

    def pack(self, codes: torch.Tensor) -> torch.Tensor:
        """The codes as they are stored, one element each."""
        return codes.to(getattr(torch, self.dtype))

    def unpack(self, stored: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The codes of stored elements, in float32 if nothing else is asked for."""
        return stored.to(dtype or torch.float32)
