"""Hadamard rotation (QuaRot, arXiv:2404.00456): spread outliers over all channels of a block of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from llmc.algorithms.base import Algorithm
from llmc.layers.transforms import Rotate
from llmc.numerics.hadamard import block_hadamard, largest_order

if TYPE_CHECKING:
    import torch

    from llmc.calib.block import BlockStep
    from llmc.calib.group import Group


class Hadamard(Algorithm):
    """Rotate the input of each group by a block-diagonal Hadamard matrix."""

    name: Literal["Hadamard"] = "Hadamard"
    where: Literal["online", "folded"] = Field(
        "online",
        description="online: every group, at run time; folded: only what attention gives, head by head, inside the "
        "weights of v and o, which any target can store",
    )
    block_size: int | None = Field(
        None, ge=2, le=16_384, description="channels that are mixed; default: as many as can be"
    )
    gate: bool = Field(True, description="keep a group as it is where rotating does not lower its output error")

    @property
    def leaves(self) -> frozenset[str]:
        return frozenset({"rotate"} if self.where == "online" else ())

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"rows"})

    def width_problem(self, inputs: int) -> str | None:
        if self.block_size is None:
            return None
        if largest_order(self.block_size) != self.block_size:
            return f"no Hadamard matrix of block_size {self.block_size} is known here; use a power of two"
        if self.where == "online" and inputs % self.block_size:
            return f"block_size {self.block_size} does not divide its {inputs} inputs; choose a divisor, or none"
        return None

    def apply(self, block: BlockStep) -> None:
        for group in block.groups:
            rotation = self._rotation(block, group)
            if rotation is not None:
                block.transform_if_better(group, [rotation], self.name, self.gate)

    def _rotation(self, block: BlockStep, group: Group) -> Rotate | None:
        """Of the group's input; None where there is nothing to fold it into."""
        width, heads = group.linears[0].in_features, group.head_width
        if self.where == "online":
            return Rotate(self._factors(width, self.block_size, group))
        if heads is None:
            return None
        if not group.fold:
            block.rejected[f"{self.name} folded, where no v can absorb it"] += 1
            return None
        size = self.block_size or largest_order(heads)
        if heads % size:  # a block must not reach over two heads
            block.rejected[f"{self.name} block_size {size} in heads of {heads}"] += 1
            size = largest_order(heads)
        return Rotate(self._factors(width, size, group), within_heads=True)

    @staticmethod
    def _factors(width: int, size: int | None, group: Group) -> tuple[torch.Tensor, ...]:
        return tuple(factor.to(group.device) for factor in block_hadamard(width, size))
