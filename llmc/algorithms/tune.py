"""Learning what a block has been rounded to, by gradients of its output error (AdaRound, arXiv:2004.10568; BRECQ,
arXiv:2102.05426): codes that would better go the other way, scales, biases and the low-rank branch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from llmc.algorithms.base import Algorithm

if TYPE_CHECKING:
    from llmc.calib.block import BlockStep

WARM_UP = 5  # steps in which the rates rise


class Tune(Algorithm):
    """Learn the codes, scales, biases and low-rank branches of a rounded block, by gradients of its output error."""

    name: Literal["Tune"] = "Tune"
    steps: int = Field(100, ge=1, le=10_000, description="of the optimizer, for each block")
    calls: int = Field(8, ge=1, le=256, description="that a step looks at, at most")
    tokens: int = Field(16_384, ge=1, description="that a step looks at: fewer calls where each has many; at least one")
    rounding: float = Field(
        3e-3, ge=0, le=0.1, description="how fast weights move to other codes, in steps of their grid"
    )
    scale: float = Field(1e-3, ge=0, le=0.1, description="how fast scales change, as a share of them")
    bias: float = Field(2e-3, ge=0, le=0.1, description="how fast biases change, as a share of their size")
    lowrank: float = Field(3e-3, ge=0, le=0.1, description="how fast low-rank factors change, as a share of their size")
    seed: int = Field(0, ge=0, le=2**63 - 1, description="of the order in which calls are looked at")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"rows"})  # to hold each layer against plain rounding

    @property
    def works_on_rounded(self) -> bool:
        return True

    @property
    def sequential(self) -> bool:
        return True

    @property
    def on_whole_block(self) -> bool:
        return True

    def apply(self, block: BlockStep) -> None:
        from llmc.calib.learn import Schedule, learn
        from llmc.layers.learned import Rates

        rates = Rates(self.rounding, self.scale, self.bias, self.lowrank)
        learned = learn(block, rates, Schedule(self.steps, WARM_UP, self.calls, self.tokens, self.seed))
        if not learned:
            block.rejected[f"{self.name} of blocks that it does not help on calls kept apart"] += 1
