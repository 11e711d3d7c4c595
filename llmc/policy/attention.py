"""Which attentions are quantized, and how: those that a glob includes and none excludes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmc.numerics.attention_spec import AttentionSpec
from llmc.policy.rules import block_number, count_matches, fits


@dataclass(frozen=True)
class AttentionPolicy:
    """The whole answer; what is left out stays float, as does what has an error above `max_error`."""

    spec: AttentionSpec
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    ignored_blocks: frozenset[int] = frozenset()
    max_error: float | None = None
    seed: int = 0  # of the random signs of a rotation

    def takes(self, name: str, part: str = "") -> bool:
        """Whether the attention of that name within that part is quantized."""
        if block_number(name) in self.ignored_blocks:
            return False
        included = any(fits(name, part, glob) for glob in self.include)
        return included and not any(fits(name, part, glob) for glob in self.exclude)

    def check(self, parts: Mapping[str, Sequence[str]]) -> Counter[str]:
        """How many attentions of all parts each glob matches; one that matches none is an error with suggestions."""
        return count_matches([*self.include, *self.exclude], parts, "attention")
