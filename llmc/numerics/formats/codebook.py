"""4-bit codes of a codebook, which kernels decode to int8 before they multiply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch

from llmc.numerics.formats.base import Format, Rounding

# the levels of least squared error for what rotated weights look like, divided by the largest of their group; kernels
# that know them are the fastest
STANDARD = (
    *(-0.980602, -0.794529, -0.638165, -0.500986, -0.377321, -0.263187, -0.155210, -0.050720),
    *(0.052541, 0.156985, 0.265284, 0.379533, 0.502636, 0.638953, 0.794876, 0.980671),
)


class Codebook4(Format):
    """codebook4: one of 16 levels, times a step of its 16 neighbours, rounded to int8; a scale for each row."""

    name: Literal["codebook4"] = "codebook4"
    levels: tuple[float, ...] = STANDARD
    fits: bool = False  # whether linears that read one input are given levels of their own, before GPTQ solves for them
    bits: ClassVar[int] = 4
    max: ClassVar[float] = 127.0
    integer: ClassVar[bool] = False
    dtype: ClassVar[str] = "int8"  # what is multiplied; codes are made of it when it is written
    steps_every: ClassVar[int | None] = 16

    def round(self, x: torch.Tensor, rounding: Rounding = "nearest_even", mirrored: bool = False) -> torch.Tensor:
        return x.round().clamp_(-self.max, self.max)

    def step(self, codes: torch.Tensor, zero: torch.Tensor | None = None) -> torch.Tensor:
        assert zero is not None and self.steps_every is not None
        apart = (self.levels[-1] - self.levels[0]) / (len(self.levels) - 1)
        return (zero * apart).clamp_(min=1).repeat_interleave(self.steps_every, 1)

    def nearest(self, x: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        from llmc.numerics.codebook import nearest

        return nearest(x, self.table(x.device), steps)

    def fitting_grid(self, rows: torch.Tensor, share: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        from llmc.numerics.codebook import fitting_grid

        assert self.steps_every is not None
        return fitting_grid(rows, self.table(rows.device), self.steps_every, share)

    @property
    def is_to_be_fitted(self) -> bool:
        return self.fits

    def fitted(self, weights: Sequence[torch.Tensor], energy: torch.Tensor) -> Codebook4:
        from llmc.numerics.codebook import fitted_levels

        assert self.steps_every is not None
        levels = fitted_levels(weights, energy.float(), self.table(energy.device), self.steps_every)
        return self.model_copy(update={"levels": tuple(levels.tolist()), "fits": False})

    def table(self, device: torch.device) -> torch.Tensor:
        """The levels, in order."""
        return torch.tensor(self.levels, device=device)
