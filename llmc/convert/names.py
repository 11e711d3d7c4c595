"""A checkpoint in one naming scheme, and the same in the other: names, fused layers, other shapes; exact both ways.

Headers are enough to plan it. Between the two, the parts of a layer that is one in the original are numbered: `qkv[0]`.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TypeAlias

import torch

from llmc.convert.fuse import BY_ROW, Layer, fuse, shared, split
from llmc.convert.rename import Renamer
from llmc.convert.rows import Constant, Omitted, Reshaped, Table, Tied
from llmc.convert.safetensors_file import LazyTensor
from llmc.errors import ExportError
from llmc.renames import Fused, Swapped

Tensors: TypeAlias = Mapping[str, LazyTensor]
Range: TypeAlias = tuple[int, int]  # of rows: the first, and the one after the last
# how the parts of a layer are called between
PART = re.compile(r"(?P<module>.+)\[(?P<index>\d{1,3})\](?:\.(?P<leaf>.+))?")


Special: TypeAlias = Fused | Swapped | Reshaped | Tied | Omitted


@dataclass(frozen=True)
class Place:
    """Where a change of a tensor by an alias belongs: these of its rows, and these rows of the change; None: all."""

    name: str
    rows: Range | None = None
    of_change: Range | None = None


@dataclass(frozen=True)
class View:
    """A tensor in another shape, or with its rows in another order."""

    base: LazyTensor
    change: Callable[[torch.Tensor], torch.Tensor]
    shape: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    @property
    def bases(self) -> tuple[LazyTensor, ...]:
        return (self.base,)

    def make(self) -> torch.Tensor:
        return self.change(self.base.make())


@dataclass(frozen=True)
class Known:
    """A tensor that comes from no file."""

    values: torch.Tensor

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    def make(self) -> torch.Tensor:
        return self.values


class Names:
    """Both directions of one table."""

    def __init__(self, table: Table):
        self._renamer = Renamer(tuple(pair for row in table for pair in _pairs(row)))
        self._special = {row.target: row for row in table if not isinstance(row, tuple | Constant)}
        self._constants = {row.target: row for row in table if isinstance(row, Constant)}

    def to_original(self, tensors: Tensors) -> dict[str, LazyTensor]:
        """Ours -> the original's; all unknown names are refused at once."""
        renamed = self._renamer.forward_all(tensors)
        parts: defaultdict[str, defaultdict[int, dict[str, LazyTensor]]] = defaultdict(lambda: defaultdict(dict))
        found: dict[str, LazyTensor] = {}
        for name, tensor in tensors.items():
            if part := self._part(renamed[name]):
                parts[part["module"]][int(part["index"])][part["leaf"] or ""] = tensor
            else:
                found[renamed[name]] = self._changed(renamed[name], tensor, back=False)
        for module, layers in parts.items():
            found |= {_joined(module, leaf): tensor for leaf, tensor in self._one(module, layers).items()}
        return found | dict(self._made(found))

    def to_ours(self, tensors: Tensors) -> dict[str, LazyTensor]:
        """The original's -> ours: the exact inverse."""
        found: dict[str, LazyTensor] = {}
        fused: defaultdict[str, dict[str, LazyTensor]] = defaultdict(dict)
        for name, tensor in tensors.items():
            if name in self._constants and self._is_constant(name, tensor, tensors):
                continue
            module, leaf, row = self._row(name)
            match row:
                case Fused():
                    fused[module][leaf] = tensor
                case Tied(sources):
                    found |= {_joined(f"{module}[{i}]", leaf): tensor for i in range(len(sources))}
                case Omitted():
                    continue
                case _:
                    found[name] = self._changed(name, tensor, back=True)
        for module, layer in fused.items():
            row = self._row(module)[2]
            assert isinstance(row, Fused)
            for index, part in enumerate(split(module, layer, row.shares)):
                found |= {_joined(f"{module}[{index}]", leaf): tensor for leaf, tensor in part.items()}
        renamed = self._renamer.backward_all(found)
        return {renamed[name]: tensor for name, tensor in found.items()}

    def original_module(self, name: str) -> str | None:
        """The original's module that holds the one of ours; None if the table has no row for it."""
        if not self._renamer.is_left(name):
            return None
        renamed = self._renamer.forward(name)
        part = self._part(renamed)
        return part["module"] if part else renamed

    def not_ours(self, names: Iterable[str]) -> list[str]:
        """The names that are not on the left of the table."""
        return [name for name in names if not self._renamer.is_left(name)]

    def not_original(self, names: Iterable[str]) -> list[str]:
        """The names that are not on the right of the table."""
        return [name for name in names if not self._is_original(name)]

    def knows(self, names: Iterable[str]) -> bool:
        """Whether all names are of one scheme or of the other."""
        names = list(names)
        return not self.not_ours(names) or not self.not_original(names)

    def omitted(self, names: Iterable[str]) -> dict[str, str]:
        """The original's names that have no place among ours, and what they are."""
        rows = {name: self._row(name)[2] for name in names}
        return {name: row.what for name, row in rows.items() if isinstance(row, Omitted)}

    def aliases(self, tensors: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, tuple[Place, ...]]]:
        """What the other scheme calls weights and biases of given shapes, whichever of the two `tensors` are in.

        Tensors that have another shape or another order of rows there are left out.
        """
        if self.not_ours(tensors) and not self.not_original(tensors):
            yield from self._aliases_of_originals(tensors)
            return
        parts: defaultdict[str, dict[int, str]] = defaultdict(dict)
        for name, alias in self._renamer.forward_all(tensors).items():
            if part := self._part(alias):
                parts[_joined(part["module"], part["leaf"] or "")][int(part["index"])] = name
            elif not self._is_changed(alias):
                yield alias, (Place(name),)
        for alias, names in parts.items():
            whole = [names[index] for index in sorted(names)]
            if not all(tensors[name] for name in whole):
                continue
            ends = accumulate((tensors[name][0] for name in whole), initial=0)
            yield alias, tuple(Place(name, None, rows) for name, rows in zip(whole, pairwise(ends), strict=True))

    def _aliases_of_originals(self, tensors: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, tuple[Place, ...]]]:
        for name, shape in tensors.items():
            module, leaf, row = self._row(name)
            if isinstance(row, Fused) and leaf in ("weight", "bias") and shape:
                ends = accumulate((shape[0] * share // sum(row.shares) for share in row.shares), initial=0)
                for index, rows in enumerate(pairwise(ends)):
                    yield self._renamer.backward(f"{module}[{index}].{leaf}"), (Place(name, rows),)
            elif row is None and self._renamer.is_right(name):
                yield self._renamer.backward(name), (Place(name),)

    def _part(self, name: str) -> re.Match[str] | None:
        """A name between the two, taken apart; None if it is no part of a layer, whatever it ends in."""
        part = PART.fullmatch(name)
        return part if part and isinstance(self._row(part["module"])[2], Fused | Tied) else None

    def _is_changed(self, name: str) -> bool:
        return self._row(name)[2] is not None

    def _is_original(self, name: str) -> bool:
        module, leaf, row = self._row(name)
        if isinstance(row, Omitted) or name in self._constants:
            return True
        return self._renamer.is_right(_joined(f"{module}[0]", leaf) if isinstance(row, Fused | Tied) else name)

    def _row(self, name: str) -> tuple[str, str, Special | None]:
        """The module or tensor that a row is about, what follows it in the name, and the row."""
        for module, leaf in _beginnings(name):
            for pattern in (module, re.sub(r"\.\d+(?=\.|$)", ".{}", module)):
                if pattern in self._special:
                    return module, leaf, self._special[pattern]
        return name, "", None

    def _changed(self, name: str, tensor: LazyTensor, back: bool) -> LazyTensor:
        """The tensor with this name of the original, in its shape there, or in ours."""
        _, leaf, row = self._row(name)
        match row:
            case Swapped() if leaf in BY_ROW and math.prod(tensor.shape) > 1:
                return _view(name, tensor, _swap_halves)
            case Reshaped(_, _, there, inverse):
                return _view(name, tensor, inverse if back else there)
        return tensor

    def _one(self, module: str, layers: Mapping[int, Layer]) -> dict[str, LazyTensor]:
        """One layer, or one tensor, of what are several of ours."""
        row = self._row(module)[2]
        assert isinstance(row, Fused | Tied)
        missing = [source for index, source in enumerate(row.sources) if index not in layers]
        whole = [layers[index] for index in sorted(layers)]
        if isinstance(row, Tied):
            alike = {leaf: tuple(layer[leaf] for layer in whole if leaf in layer) for layer in whole for leaf in layer}
            return {leaf: shared(_joined(module, leaf), tensors) for leaf, tensors in alike.items()}
        if missing:
            raise ExportError(
                f"{module} is made of {', '.join(row.sources)}; {', '.join(missing)} is missing; the checkpoint must "
                "hold all of them; download or copy it again"
            )
        return fuse(module, whole, row.shares)

    def _made(self, found: Tensors) -> Iterator[tuple[str, LazyTensor]]:
        for name, row in self._constants.items():
            beside = found.get(row.beside)
            if name not in found and beside is not None and beside.shape:
                yield name, Known(row.values(tuple(beside.shape)).to(row.dtype or beside.dtype))

    def _is_constant(self, name: str, tensor: LazyTensor, tensors: Tensors) -> bool:
        """Whether a tensor has the values that are known; if not, only a name of ours can keep it."""
        row = self._constants[name]
        beside = tensors.get(row.beside)
        if beside is not None and beside.shape:
            values = row.values(tuple(beside.shape))
            if tuple(values.shape) == tuple(tensor.shape) and tensor.make().float().equal(values.float()):
                return True
        if self._renamer.is_right(name):
            return False
        raise ExportError(
            f"{name} does not have the values that it has in every model of this type, and ours keep no place for it; "
            "the checkpoint is another model's, or damaged; check the model type, or download it again"
        )


def _pairs(row: tuple[str, str] | Special | Constant) -> tuple[tuple[str, str], ...]:
    """A row as pairs of names, in which the parts of one layer of the original are numbered."""
    match row:
        case Fused(sources, target) | Tied(sources, target):
            return tuple((source, f"{target}[{index}]") for index, source in enumerate(sources))
        case Swapped(source, target) | Reshaped(source, target):
            return ((source, target),)
        case Constant() | Omitted():
            return ()
        case _:
            return (row,)


def _view(name: str, tensor: LazyTensor, change: Callable[[torch.Tensor], torch.Tensor]) -> View:
    try:
        shape = tuple(change(torch.empty(tuple(tensor.shape), device="meta")).shape)
    except (RuntimeError, IndexError, ValueError) as error:
        raise ExportError(
            f"{name} has the shape {list(tensor.shape)}, in which no model of this type has it ({error}); check the "
            "model type, or download the checkpoint again"
        ) from error
    return View(tensor, change, shape)


def _swap_halves(tensor: torch.Tensor) -> torch.Tensor:
    first, second = tensor.chunk(2)
    return torch.cat((second, first))


def _beginnings(name: str) -> Iterator[tuple[str, str]]:
    """A name cut at each of its dots, from the longest beginning to the shortest."""
    components = name.split(".")
    for count in range(len(components), 0, -1):
        yield ".".join(components[:count]), ".".join(components[count:])


def _joined(module: str, leaf: str) -> str:
    return f"{module}.{leaf}" if leaf else module
