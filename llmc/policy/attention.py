"""Which attentions are quantized, those that a glob includes and none excludes, and how, by rules as layers have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmc.numerics.attention_spec import AttentionSpec
from llmc.policy.rules import block_number, count_matches, fits


@dataclass(frozen=True)
class AttentionRule:
    """Attentions get the spec whose name, alone or with the part's name before it, fits the glob; None: float."""

    match: str
    spec: AttentionSpec | None


@dataclass(frozen=True)
class AttentionPolicy:
    """The whole answer; what is left out stays float, as does what has an error above `max_error`."""

    default: AttentionSpec
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    rules: tuple[AttentionRule, ...] = ()  # in order, the first that matches wins
    ignored_blocks: frozenset[int] = frozenset()
    max_error: float | None = None
    seed: int = 0  # of the random signs of a rotation

    @property
    def specs(self) -> tuple[AttentionSpec, ...]:
        """All that it may give, each once."""
        return tuple(dict.fromkeys([self.default, *(rule.spec for rule in self.rules if rule.spec is not None)]))

    def spec_of(self, name: str, part: str = "") -> AttentionSpec | None:
        """How the attention of that name within that part is quantized; None: it stays float."""
        if block_number(name) in self.ignored_blocks or any(fits(name, part, glob) for glob in self.exclude):
            return None
        if not any(fits(name, part, glob) for glob in self.include):
            return None
        return next((rule.spec for rule in self.rules if fits(name, part, rule.match)), self.default)

    def check(self, parts: Mapping[str, Sequence[str]]) -> Counter[str]:
        """How many attentions of all parts each glob matches; one that matches none is an error with suggestions."""
        globs = [*self.include, *self.exclude, *(rule.match for rule in self.rules)]
        return count_matches(globs, parts, "attention")
