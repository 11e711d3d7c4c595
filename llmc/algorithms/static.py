"""Activation scales that are fixed before the model runs: one per tensor, from what the calibration saw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from llmc.algorithms.base import Algorithm

if TYPE_CHECKING:
    from llmc.calib.block import BlockStep


class Static(Algorithm):
    """How the scale of each act with `static: True` is found; without this method, from the largest magnitude."""

    name: Literal["Static"] = "Static"
    range: Literal["absmax", "mse", "percentile", "output"] = Field(
        "mse",
        description="the range of the scale: the whole, that of least squared error, most magnitudes, or that of least "
        "error of what the linears make of it",
    )
    percentile: float = Field(99.99, gt=50, le=100, description="with range percentile: how many magnitudes it holds")

    @property
    def leaves(self) -> frozenset[str]:
        return frozenset({"static"})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"range", "rows"})

    @property
    def works_on_rounded(self) -> bool:
        return True

    def apply(self, block: BlockStep) -> None:
        from llmc.calib.act_scales import fix_act_scales

        for group in block.groups:
            fix_act_scales(group, self.range, self.percentile)
