"""What the tensors of a file are of a float network: rows of which of its tensors, in which order.

A family's one table says it. It is read by sending the numbers of rows through it instead of weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from llmc.convert.names import Names
from llmc.errors import ExportError
from llmc.verify.blueprint import Blueprint, Shape


@dataclass(frozen=True)
class Piece:
    """Rows of a tensor or module of the float network."""

    name: str
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many."""
        return self.stop - self.start


@dataclass(frozen=True)
class Expected:
    """A tensor that a file has, by its name there, and what it is of the float network."""

    name: str
    shape: Shape
    pieces: tuple[Piece, ...]

    @property
    def tensor(self) -> str:
        """The full name in the file."""
        return self.name

    @property
    def sources(self) -> list[str]:
        """The full names in the float network, in the order of its rows."""
        return [piece.name for piece in self.pieces]


@dataclass(frozen=True)
class Linear(Expected):
    """A linear that may be quantized, by its name without `.weight`; its shape is (outputs, inputs)."""

    absorbs: bool = False  # whether its rows may carry a smoothing of what reads them
    smoothed: bool = True  # whether something can absorb a smoothing of its own inputs

    @property
    def tensor(self) -> str:
        return f"{self.name}.weight"

    @property
    def sources(self) -> list[str]:
        return [f"{module}.weight" for module in self.modules]

    @property
    def modules(self) -> list[str]:
        """Those of the float network that it is made of."""
        return [piece.name for piece in self.pieces]

    @property
    def outputs(self) -> int:
        """Rows of its weight."""
        return self.shape[0]

    @property
    def inputs(self) -> int:
        """Columns of its weight."""
        return self.shape[1]


@dataclass(frozen=True)
class _Rows:
    """Numbers of rows in place of a tensor; whatever is beside the first axis follows it."""

    values: Tensor
    dtype: torch.dtype = torch.int64

    @property
    def shape(self) -> Shape:
        return tuple(self.values.shape)

    def make(self) -> Tensor:
        return self.values


def expected_tensors(blueprint: Blueprint, naming: str | None) -> tuple[Expected, ...] | str:
    """Every tensor of a file in that naming (a key of the tables; None: the network's own names), or why not."""
    names, firsts, count = list(blueprint.shapes), [], 0
    numbers: dict[str, _Rows] = {}
    for name, shape in blueprint.shapes.items():
        rows = shape[0] if shape else 1
        numbers[name] = _Rows(torch.arange(count, count + rows).reshape(-1, *[1] * (len(shape) - 1)))
        firsts.append(count)
        count += rows
    if naming is None:
        named: Mapping[str, _Rows] = numbers
    else:
        table = blueprint.tables.get(naming) or blueprint.tables["original"]
        if not table:
            return "the names of this family's own repository are not known"
        try:
            named = Names(table).to_original(numbers)  # type: ignore[assignment]
        except ExportError as error:
            return str(error)
    starts = torch.tensor(firsts)
    return tuple(
        _expected(blueprint, name, list(_pieces(rows.make().flatten(), names, starts))) for name, rows in named.items()
    )


def _pieces(rows: Tensor, names: list[str], starts: Tensor) -> Iterator[Piece]:
    """Runs of rows that follow one another in one tensor of the float network."""
    owners = torch.searchsorted(starts, rows, right=True) - 1
    breaks = (rows.diff() != 1) | (owners.diff() != 0)
    lengths = torch.tensor([0, *(breaks.nonzero().flatten() + 1).tolist(), len(rows)]).diff().tolist()
    for first, length in zip(accumulate(lengths, initial=0), lengths, strict=False):
        owner = int(owners[first])
        start = int(rows[first] - starts[owner])
        yield Piece(names[owner], start, start + length)


def _expected(blueprint: Blueprint, name: str, pieces: list[Piece]) -> Expected:
    shape = blueprint.shapes[pieces[0].name]
    shape = (sum(piece.rows for piece in pieces), *shape[1:]) if shape else ()
    modules = [piece.name.removesuffix(".weight") for piece in pieces]
    if not set(modules) <= blueprint.linears.keys():
        return Expected(name, shape, tuple(pieces))
    own = tuple(Piece(module, piece.start, piece.stop) for module, piece in zip(modules, pieces, strict=True))
    absorbs, smoothed = not blueprint.absorbing.isdisjoint(modules), any(blueprint.linears[each] for each in modules)
    return Linear(name.removesuffix(".weight"), shape, own, absorbs, smoothed)


def divided(expected: Expected, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the float network that a tensor of a file holds."""
    if not value.dim():
        yield expected.pieces[0].name, value
        return
    found: dict[str, dict[int, Tensor]] = {}
    parted = value.split([piece.rows for piece in expected.pieces])  # type: ignore[no-untyped-call]
    for piece, rows in zip(expected.pieces, parted, strict=True):
        found.setdefault(piece.name, {})[piece.start] = rows
    for name, parts in found.items():
        yield name, torch.cat([parts[start] for start in sorted(parts)])
