"""One post-training method: its fields are its settings, `apply` is all that it does to one block."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from pydantic import Field

from llmc.plugin import Plugin

if TYPE_CHECKING:
    from llmc.calib.block import BlockStep
    from llmc.calib.group import Group
    from llmc.layers.transforms import Scale


class Algorithm(Plugin):
    """A method: what it reads, what it leaves on layers, and what it does to one block."""

    @property
    def leaves(self) -> frozenset[str]:
        """What it puts on layers, which a target must be able to store: of scale, rotate, lowrank, rounded, static,
        steps."""
        return frozenset()

    @property
    def needs(self) -> frozenset[str]:
        """The statistics that it reads, by their names in `llmc.calib.observers`."""
        return frozenset()

    @property
    def own_scales(self) -> bool:
        """Whether it chooses the scale of a weight for that weight alone, so that it could share it with no other."""
        return "rounded" in self.leaves

    @property
    def works_on_rounded(self) -> bool:
        """Whether it can come after a method that has rounded the weights."""
        return False

    @property
    def sequential(self) -> bool:
        """Whether a block must be observed on what the quantized blocks before it give."""
        return False

    @property
    def within_block(self) -> bool:
        """Whether a linear must also be observed on what the rounded linears before it in the block give."""
        return False

    @property
    def on_whole_block(self) -> bool:
        """Whether it works on a block as a whole, once all methods before it have worked on each of its layers."""
        return False

    def schedule_problem(self, steps: int) -> str | None:
        """Why it cannot work with a schedule of so many steps; None if it can."""
        return None

    def width_problem(self, inputs: int) -> str | None:
        """Why it cannot work on a linear of so many inputs; None if it can."""
        return None

    @abstractmethod
    def apply(self, block: BlockStep) -> None:
        """Change the basis, split or round the layers of one block."""


class Smoothing(Algorithm):
    """A method that multiplies the input of each group by a Scale, made from the largest magnitudes of its channels."""

    gate: bool = Field(True, description="keep a group as it is where smoothing does not lower its output error")

    @property
    def leaves(self) -> frozenset[str]:
        return frozenset({"scale"})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"absmax", "rows"})

    def apply(self, block: BlockStep) -> None:
        for group in block.groups:
            if group.may_scale:
                block.transform_if_better(group, self.scales(group), self.name, self.gate, in_order=True)

    @abstractmethod
    def scales(self, group: Group) -> list[Scale]:
        """Those to choose from, each moving more than the one before: a valley of output error is looked for."""
