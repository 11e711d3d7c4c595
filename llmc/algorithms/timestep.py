"""Static activation scales for each denoising step: early steps read almost pure noise, late ones do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from llmc.algorithms.base import Algorithm

if TYPE_CHECKING:
    from llmc.calib.block import BlockStep


class Timestep(Algorithm):
    """For each act with `static: True` a scale for every step of the schedule, each from what that step read."""

    name: Literal["Timestep"] = "Timestep"
    timestep_sep: int = Field(
        0, ge=0, description="the first step with a static scale; those before it measure one for each token"
    )
    range: Literal["absmax", "mse", "output"] = Field(
        "output",
        description="the range of each scale: the whole of what the step read, or the share of it that gives the least "
        "squared error of acts, or of what the linears make of them",
    )

    @property
    def leaves(self) -> frozenset[str]:
        return frozenset({"static", "steps"})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"step_range", "rows", "row_steps"})

    @property
    def works_on_rounded(self) -> bool:
        return True

    def schedule_problem(self, steps: int) -> str | None:
        if self.timestep_sep < steps:
            return None
        return (
            f"timestep_sep is {self.timestep_sep}, and calib runs {steps} steps, so that none would have a static "
            f"scale; write at most {steps - 1}, or dynamic acts (`granularity: per_token, static: False`)"
        )

    def apply(self, block: BlockStep) -> None:
        from llmc.calib.act_scales import fix_step_scales

        for group in block.groups:
            fix_step_scales(group, block.steps, self.timestep_sep, self.range)
