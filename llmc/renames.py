"""How names and rows of a network translate to those of another repository: tables, as adapters write them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

# (name in this model, name in the target) of modules or bare parameters; `{}` stands for one block number
Renames = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Fused:
    """Modules of ours that are one in the target: its rows are theirs, one below the other, in these shares."""

    sources: tuple[str, ...]
    target: str
    shares: tuple[int, ...] = (1, 1, 1)


@dataclass(frozen=True)
class Swapped:
    """A module whose two halves of rows change places: diffusers has (scale, shift) where originals have the other."""

    source: str
    target: str


Original = tuple[tuple[str, str] | Fused | Swapped, ...]  # a table of Renames, with what is more than a new name
ORIGINAL = "original"  # the table by which targets write that read names and rows of the network's own repository


def fused_layers(table: Original, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Layer of the original -> those of ours that it is made of, in the order of its rows, among the `names`."""
    found = {}
    for row in table:
        if isinstance(row, Fused):
            first = re.compile(re.escape(row.sources[0]).replace(r"\{\}", r"(\d+)"))
            for name in names:
                if numbers := first.fullmatch(name):
                    found[row.target.format(*numbers.groups())] = tuple(
                        source.format(*numbers.groups()) for source in row.sources
                    )
    return found
