"""Hadamard rotation (QuaRot, arXiv:2404.00456): spread outliers over all channels of a block of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llmc.algorithms.base import Algorithm
from llmc.layers.transforms import Rotate
from llmc.numerics.hadamard import block_hadamard

if TYPE_CHECKING:
    from llmc.calib.block import BlockStep


class Hadamard(Algorithm):
    """Rotate the input of each group by a block-diagonal Hadamard matrix at run time."""

    name: Literal["Hadamard"] = "Hadamard"
    block_size: int | None = Field(None, ge=2, description="channels that are mixed; default: as many as can be")
    gate: bool = Field(True, description="keep a group as it is where rotating does not lower its output error")
    leaves: ClassVar[frozenset[str]] = frozenset({"rotate"})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"rows"})

    def apply(self, block: BlockStep) -> None:
        for group in block.groups:
            rotation = Rotate(block_hadamard(group.linears[0].in_features, self.block_size).to(group.device))
            if self.gate:
                block.transform_if_better(group, rotation, group.rows(), self.name)
            else:
                group.transform(rotation)
