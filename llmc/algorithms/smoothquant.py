"""SmoothQuant (arXiv:2211.10438): move activation outliers into the weights, channel by channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field

from llmc.algorithms.base import Smoothing
from llmc.layers.transforms import Scale

if TYPE_CHECKING:
    from llmc.calib.group import Group

ALPHAS = tuple(step / 20 for step in range(1, 20, 2))  # the optimum is flat


class SmoothQuant(Smoothing):
    """Smooth each input channel by absmax(x)^alpha / absmax(w)^(1-alpha); alpha fixed, or searched per group."""

    name: Literal["SmoothQuant"] = "SmoothQuant"
    alpha: Annotated[float, Field(ge=0, le=1)] | Literal["search"] = Field(
        0.5,
        description="how much of the difficulty moves to the weights; `search` looks for the best for each group",
    )

    def scales(self, group: Group) -> list[Scale]:
        from llmc.numerics.smoothing import smoothing

        alphas = torch.tensor(ALPHAS if self.alpha == "search" else (self.alpha,), dtype=torch.float64)[:, None]
        act, weight = group.absmax(), group.weight_absmax()
        return [Scale.dividing_by(s) for s in smoothing(act, weight, alphas.to(act), (1 - alphas).to(act))]
