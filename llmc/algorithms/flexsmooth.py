"""Flexible smoothing, as msModelSlim's m6 and `flex_smooth_quant` do it: both exponents free, by measured output error.

Here the error is that of all linears of the group on the grids that they will have, over rows of the whole schedule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from llmc.algorithms.base import Smoothing
from llmc.layers.transforms import Scale

if TYPE_CHECKING:
    from llmc.calib.group import Group

GRID = tuple(step / 20 for step in range(21))
Exponent = Annotated[float, Field(ge=0, le=1)] | None


class FlexSmooth(Smoothing):
    """Smooth each input channel by s = absmax(x)^alpha / absmax(w)^beta; what is left out is searched per group."""

    name: Literal["FlexSmooth"] = "FlexSmooth"
    alpha: Exponent = Field(None, description="exponent of the act; left out: searched, at first with beta = 1 - alpha")
    beta: Exponent = Field(None, description="exponent of the weight; left out: searched once alpha is known")

    def scales(self, group: Group) -> list[Scale]:
        """One: that of least output error by rows that a choice may see; IterSmooth's is among those tried."""
        from llmc.numerics.smoothing import smoothing

        act, weight, probe = group.absmax(), group.weight_absmax(), group.probe()

        def best(pairs: list[tuple[float, float]]) -> tuple[float, float]:
            return min(pairs, key=lambda pair: probe.error(scale(*pair))) if len(pairs) > 1 else pairs[0]

        def scale(alpha: float, beta: float) -> Scale:
            return Scale.dividing_by(smoothing(act, weight, alpha, beta))

        alphas = GRID if self.alpha is None else (self.alpha,)
        alpha, beta = best([(alpha, 1 - alpha if self.beta is None else self.beta) for alpha in alphas])
        betas = (beta, *GRID) if self.beta is None else (beta,)
        return [scale(*best([(alpha, beta) for beta in betas]))]
