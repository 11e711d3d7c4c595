"""SmoothQuant (arXiv:2211.10438): move activation outliers into the weights, channel by channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import Field

from llmc.algorithms.base import Algorithm
from llmc.layers.transforms import Scale

if TYPE_CHECKING:
    from llmc.calib.block import BlockStep, Group

ALPHAS = tuple(step / 20 for step in range(1, 20))


class SmoothQuant(Algorithm):
    """Smooth each input channel by absmax(x)^alpha / absmax(w)^(1-alpha); alpha fixed, or searched per group."""

    name: Literal["SmoothQuant"] = "SmoothQuant"
    alpha: Annotated[float, Field(ge=0, le=1)] | Literal["search"] = Field(
        0.5,
        description="how much of the difficulty moves to the weights; `search` finds the best for each group",
    )
    gate: bool = Field(True, description="keep a group as it is where smoothing does not lower its output error")
    leaves: ClassVar[frozenset[str]] = frozenset({"scale"})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"absmax", "rows"})

    def apply(self, block: BlockStep) -> None:
        for group in block.groups:
            if not group.may_scale:
                continue
            rows = group.rows()
            alphas = ALPHAS if self.alpha == "search" else (self.alpha,)
            candidates = [smoothing(group, alpha) for alpha in alphas]
            best = (
                min(candidates, key=lambda scale: group.error_with(scale, rows[::2]))
                if len(candidates) > 1
                else candidates[0]
            )
            if self.gate:
                block.transform_if_better(group, best, rows[1::2], self.name)  # rows that the search did not see
            else:
                group.transform(best)


def smoothing(group: Group, alpha: float) -> Scale:
    """The Scale by 1/s, s = absmax(x)^alpha / absmax(w)^(1-alpha); exact in bf16, as runtimes keep it."""
    act = group.absmax()
    weight = torch.stack([layer.float_weight().abs().amax(0) for layer in group.linears]).amax(0)
    s = act.clamp(min=1e-8).pow(alpha) / weight.clamp(min=1e-8).pow(1 - alpha)
    s = torch.where((act > 0) & (weight > 0), s, torch.ones_like(s)).clamp(1e-5, 1e5)
    return Scale((1 / s).to(torch.bfloat16).float())
