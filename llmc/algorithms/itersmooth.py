"""Iterative smoothing, as msModelSlim's m4 and `iter_smooth` do it: SmoothQuant's formula on every group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from llmc.algorithms.base import Smoothing
from llmc.layers.transforms import Scale

if TYPE_CHECKING:
    from llmc.calib.group import Group


class IterSmooth(Smoothing):
    """Smooth each input channel by s = absmax(x)^alpha / absmax(w)^(1-alpha), alpha and the least s as given."""

    name: Literal["IterSmooth"] = "IterSmooth"
    alpha: float = Field(
        0.5, ge=0, le=1, description="how much of the difficulty moves to the weights: m4 has 0.5, `iter_smooth` 0.9"
    )
    scale_min: float = Field(1e-5, gt=0, le=1, description="the least s")

    def scales(self, group: Group) -> list[Scale]:
        from llmc.numerics.smoothing import smoothing

        s = smoothing(group.absmax(), group.weight_absmax(), self.alpha, 1 - self.alpha, self.scale_min)
        return [Scale.dividing_by(s)]
