"""How names and rows of a network translate to those of another repository: tables, as adapters write them."""

from __future__ import annotations

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
