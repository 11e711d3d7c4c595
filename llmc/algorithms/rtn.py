"""Round to nearest: every weight to its closest code, nothing calibrated."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from llmc.algorithms.base import Algorithm

if TYPE_CHECKING:
    from llmc.calib.block import BlockStep


class RTN(Algorithm):
    """Round to nearest; the baseline that every other method must beat."""

    name: Literal["RTN"] = "RTN"
    leaves: ClassVar[frozenset[str]] = frozenset({"rounded"})

    def apply(self, block: BlockStep) -> None:
        for layer in block.linears.values():
            layer.round()
