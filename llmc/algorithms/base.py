"""One post-training method: its fields are its settings, `apply` is all that it does to one block."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from llmc.plugin import Plugin

if TYPE_CHECKING:
    from llmc.calib.block import BlockStep


class Algorithm(Plugin):
    """A method; `needs` are the statistics it reads (see `llmc.calib.observers`), `leaves` what it puts on layers."""

    needs: ClassVar[frozenset[str]] = frozenset()
    leaves: ClassVar[frozenset[str]] = frozenset()  # of "scale", "rotate", "lowrank", "rounded"

    @abstractmethod
    def apply(self, block: BlockStep) -> None:
        """Change the basis, split or round the layers of one block."""
