"""Which layer gets which grid: ordered glob rules, the first that matches wins."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import chain

from llmc.errors import ConfigError
from llmc.numerics.spec import LayerSpec

SHOWN = 10  # block numbers in one message


@dataclass(frozen=True)
class Rule:
    """Layers get the spec whose name, alone or with the part's name before it, fits the glob."""

    match: str
    spec: LayerSpec


@dataclass(frozen=True)
class Policy:
    """The whole answer: rules in order, blocks and layers left float, and the spec of the rest."""

    default: LayerSpec
    rules: tuple[Rule, ...] = ()
    ignored_blocks: frozenset[int] = frozenset()
    ignored_layers: tuple[str, ...] = ()

    def spec_of(self, name: str, part: str = "") -> LayerSpec:
        """How the layer of that name within that part is quantized."""
        number = block_number(name)
        if number in self.ignored_blocks or any(fits(name, part, glob) for glob in self.ignored_layers):
            return LayerSpec()
        return next((rule.spec for rule in self.rules if fits(name, part, rule.match)), self.default)

    def check(self, parts: Mapping[str, Sequence[str]]) -> Counter[str]:
        """How many layers of all parts each glob matches; one that matches none is an error with suggestions."""
        counts = count_matches([rule.match for rule in self.rules] + list(self.ignored_layers), parts, "layer")
        numbers = {block_number(name) for name in chain.from_iterable(parts.values())}
        missing = self.ignored_blocks - numbers
        if missing:
            some = ", ".join(map(str, sorted(missing)[:SHOWN])) + (", ..." if len(missing) > SHOWN else "")
            raise ConfigError(
                f"ignored_layers.block_ids names the blocks {some}, which the model does not have; it has "
                f"{len(numbers - {None})}: leave them out"
            )
        return counts


def count_matches(globs: Sequence[str], parts: Mapping[str, Sequence[str]], what: str) -> Counter[str]:
    """How many names of all parts each glob matches; one that matches none is an error with suggestions."""
    everything: list[tuple[str, str]] = []
    for part, names_of_part in parts.items():
        everything += [(name, part) for name in names_of_part]
    counts = Counter({glob: sum(fits(name, part, glob) for name, part in everything) for glob in globs})
    names = [name if len(parts) == 1 else f"{part}.{name}" for name, part in everything]
    for glob, count in counts.items():
        if count == 0:
            near = get_close_matches(glob, names, n=3, cutoff=0.3) or names[:3]
            raise ConfigError(
                f"the pattern {glob!r} matches no {what}.\n  {what.capitalize()}s are named like {', '.join(near)}"
            )
    return counts


def fits(name: str, part: str, glob: str) -> bool:
    """Whether a glob means what has that name within that part."""
    return fnmatchcase(name, glob) or fnmatchcase(f"{part}.{name}", glob)


def block_number(name: str) -> int | None:
    """The number of the block that a layer belongs to: the first number in its name."""
    found = re.search(r"\.(\d+)\.", name)
    return int(found.group(1)) if found else None


def parse_block_ids(ids: str | Sequence[int | str]) -> frozenset[int]:
    """`"0,15-23"`, `[0, "15-23"]` and mixtures, as numbers."""
    parts = ids.split(",") if isinstance(ids, str) else [str(part) for part in ids]
    numbers: set[int] = set()
    for part in parts:
        found = re.fullmatch(r"\s*([0-9]{1,3})(?:-([0-9]{1,3}))?\s*", part)
        first, last = (0, -1) if found is None else (int(found[1]), int(found[2] or found[1]))
        if last < first:
            raise ValueError(
                f"{part[:60]!r} is neither a block number nor a range such as 15-23, of at most three digits each"
            )
        numbers.update(range(first, last + 1))
    return frozenset(numbers)
