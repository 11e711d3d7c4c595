"""SmoothQuant (arXiv:2211.10438): move activation outliers into the weights, channel by channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field

from llmc.algorithms.base import Algorithm
from llmc.layers.transforms import Scale

if TYPE_CHECKING:
    from llmc.calib.block import BlockStep, Group

ALPHAS = tuple(step / 20 for step in range(1, 20, 2))  # the optimum is flat


class SmoothQuant(Algorithm):
    """Smooth each input channel by absmax(x)^alpha / absmax(w)^(1-alpha); alpha fixed, or searched per group."""

    name: Literal["SmoothQuant"] = "SmoothQuant"
    alpha: Annotated[float, Field(ge=0, le=1)] | Literal["search"] = Field(
        0.5,
        description="how much of the difficulty moves to the weights; `search` finds the best for each group",
    )
    gate: bool = Field(True, description="keep a group as it is where smoothing does not lower its output error")

    @property
    def leaves(self) -> frozenset[str]:
        return frozenset({"scale"})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"absmax", "rows"})

    def apply(self, block: BlockStep) -> None:
        alphas = ALPHAS if self.alpha == "search" else (self.alpha,)
        for group in block.groups:
            if group.may_scale:
                block.transform_if_better(group, smoothings(group, alphas), self.name, self.gate)


def smoothings(group: Group, alphas: tuple[float, ...]) -> list[Scale]:
    """The Scales by 1/s, s = absmax(x)^alpha / absmax(w)^(1-alpha); exact in bf16, as runtimes keep them."""
    act = group.absmax()
    weight = torch.stack([layer.float_weight().abs().amax(0) for layer in group.linears]).amax(0)
    alive = (act > 0) & (weight > 0)
    act, weight = (absmax.clamp(min=1e-8).where(alive, 1.0) for absmax in (act, weight))
    scales = ((act.pow(alpha) / weight.pow(1 - alpha)).clamp(1e-5, 1e5) for alpha in alphas)
    return [Scale((1 / s).to(torch.bfloat16).float()) for s in scales]
