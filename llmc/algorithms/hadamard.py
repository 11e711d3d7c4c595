"""Hadamard rotation (QuaRot, arXiv:2404.00456; ConvRot, arXiv:2512.03673): spread outliers over a block of channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from llmc.algorithms.base import Algorithm
from llmc.layers.transforms import Rotate
from llmc.numerics.hadamard import (
    REGULAR_ORDERS,
    block_hadamard,
    largest_order,
    regular_hadamard,
    regular_order,
)

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
    matrix: Literal["any", "regular"] = Field(
        "any",
        description="any: as many channels as can be mixed, where a target keeps the matrix; regular: that of ConvRot, "
        "online, of the largest of 256, 64 and 16 channels that divides a layer's inputs",
    )
    block_size: int | None = Field(
        None, ge=2, le=16_384, description="channels that are mixed; default: as many as can be"
    )
    gate: bool = Field(True, description="keep a group as it is where rotating does not lower its output error")

    @model_validator(mode="after")
    def _regular_ones_run_online(self) -> Hadamard:
        if self.matrix == "regular" and self.where != "online":
            raise ValueError("matrix: regular is that of runtimes which rotate inputs; leave `where: folded` out")
        if self.matrix == "regular" and self.block_size not in (None, *REGULAR_ORDERS):
            raise ValueError(
                f"block_size is {self.block_size} with matrix: regular; write 256, 64 or 16, or leave it out"
            )
        return self

    @property
    def leaves(self) -> frozenset[str]:
        online = "rotate" if self.matrix == "any" else "rotate_regular"
        return frozenset({online} if self.where == "online" else ())

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"rows"})

    def width_problem(self, inputs: int) -> str | None:
        if self.matrix == "regular":
            return self._regular_problem(inputs)
        if self.block_size is None:
            return None
        if largest_order(self.block_size) != self.block_size:
            return f"no Hadamard matrix of block_size {self.block_size} is known here; use a power of two"
        if self.where == "online" and inputs % self.block_size:
            return f"block_size {self.block_size} does not divide its {inputs} inputs; choose a divisor, or none"
        return None

    def _regular_problem(self, inputs: int) -> str | None:
        order = self.block_size or regular_order(inputs)
        if order is not None and inputs % order == 0:
            return None
        sizes = self.block_size or "256, 64 nor 16"
        return (
            f"matrix: regular mixes blocks of channels, and {f'neither {sizes}' if order is None else sizes} "
            f"divides its {inputs} inputs; leave that layer out with a rule"
        )

    def apply(self, block: BlockStep) -> None:
        for group in block.groups:
            if self.where == "online" and group.rotation == "never":
                block.rejected[f"{self.name}, which a target cannot rotate by"] += 1
                continue
            rotation = self._rotation(block, group)
            if rotation is not None:
                must = self.where == "online" and group.rotation == "must"
                block.transform_if_better(group, [rotation], self.name, self.gate and not must)

    def _rotation(self, block: BlockStep, group: Group) -> Rotate | None:
        """Of the group's input; None where there is nothing to fold it into."""
        width, heads = group.linears[0].in_features, group.head_width
        if self.matrix == "regular":
            matrix = regular_hadamard(self.block_size or regular_order(width) or 0)
            return Rotate((matrix.to(group.device),), regular=True)
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
