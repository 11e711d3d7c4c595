"""LoRAs merged into float weights on their way to a network or a file: weight + strength * alpha / rank * up @ down.

Every key of the file must find its parameter, its other half and a fitting shape, which headers alone tell, and hold
numbers; only then is anything changed. Modules may be called as in either naming scheme; where a layer is one there and
several here, each gets its rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import isfinite, prod
from pathlib import Path

import torch

from llmc.convert.codes import quantized_layers
from llmc.convert.deltas import Delta, Merged
from llmc.convert.lora_file import FLAT, READ, SHOWN, read_lora
from llmc.convert.names import Names, Place, Range
from llmc.convert.safetensors_file import LazyTensor
from llmc.errors import ExportError
from llmc.finite import is_finite

Shapes = Mapping[str, tuple[int, ...]]
Meanings = Mapping[str, set[tuple[Place, ...]]]  # what a file may call a tensor -> what it may mean


@dataclass(frozen=True)
class Lora:
    """A file, how strongly it is added, and the alpha of its layers if the file itself says none."""

    path: Path
    strength: float = 1.0
    alpha: float | None = None


def with_loras(
    tensors: Mapping[str, LazyTensor], loras: Sequence[Lora], namings: Iterable[Names]
) -> dict[str, LazyTensor]:
    """`tensors` with all `loras` to be added when they are made; or refuse. Keys may be of either side of `namings`."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    meanings = _meanings(shapes, namings) if loras else {}
    deltas: defaultdict[str, list[Delta]] = defaultdict(list)
    for lora in loras:
        for name, added in _plan(lora, shapes, dtypes, meanings).items():
            deltas[name] += added
    return {n: Merged(tensor, tuple(deltas[n])) if n in deltas else tensor for n, tensor in tensors.items()}


def _plan(lora: Lora, shapes: Shapes, dtypes: Mapping[str, torch.dtype], meanings: Meanings) -> dict[str, list[Delta]]:
    """Parameter -> what is added to it; whatever does not fit is refused at once."""
    file = read_lora(lora.path, lora.alpha)
    problems = list(file.problems)
    plan: defaultdict[str, list[Delta]] = defaultdict(list)
    changed_by: defaultdict[str, dict[Range | None, str]] = defaultdict(dict)
    quantized = frozenset(quantized_layers(dtypes))
    for module in file.modules:
        if module.problem is not None:
            problems.append(module.problem)
        for addition in module.additions:
            found = {meaning for alias in addition.aliases for meaning in meanings.get(alias, ())}
            if misfit := _misfit(addition.delta, found, shapes, quantized):
                problems.append(misfit)
                continue
            (places,) = found
            for place in places:
                if other := _already(changed_by[place.name], place, module.name):
                    problems.append(f"{module.name}: {other} is the same module")
                changed_by[place.name][place.rows] = module.name
                plan[place.name].append(addition.delta.at(place, shapes[place.name], lora.strength))
    if problems:
        shown = [f"  {problem}" for problem in problems[:SHOWN]]
        more = [f"  and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise ExportError(
            "\n".join([f"{file.path} does not fit the network, which was not changed:", *shown, *more])
            + f"\nonly {READ} of its own modules can be merged; give a LoRA that was trained for this very model"
        )
    if wrong := list(dict.fromkeys(_not_numbers(plan))):
        others = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise ExportError(
            f"{file.path} holds NaN or infinity: {', '.join(wrong[:SHOWN])}{others}; a LoRA is of numbers, since it is "
            "added to weights: see how it was trained or saved, and give another one"
        )
    return plan


def _not_numbers(plan: Mapping[str, list[Delta]]) -> Iterator[str]:
    """What of a file holds NaN or infinity: its tensors, or what they are to be multiplied by."""
    for delta in chain.from_iterable(plan.values()):
        for key, factor in zip(delta.keys, delta.factors, strict=True):
            if not is_finite(factor.make()):
                yield key
        if not isfinite(delta.scale):
            yield f"strength x alpha / rank of {' and '.join(delta.keys)}"


def _already(changed: Mapping[Range | None, str], place: Place, module: str) -> str | None:
    """Another module of the file that changes the same rows."""
    same = (other for rows, other in changed.items() if None in (rows, place.rows) or rows == place.rows)
    return next((other for other in same if other != module), None)


def _misfit(delta: Delta, found: set[tuple[Place, ...]], shapes: Shapes, quantized: frozenset[str]) -> str | None:
    """Why a delta cannot be added to what was found for it."""
    keys = " and ".join(delta.keys)
    if not found:
        return f"{keys}: the network has no such parameter"
    if len(found) > 1:
        return f"{keys}: may mean {' or '.join(sorted(place.name for places in found for place in places))}"
    (places,) = found
    whole = places[-1].of_change
    if whole is not None and delta.shape[:1] != (whole[1],):
        return f"{keys}: {delta.shape} has not the {whole[1]} rows of {', '.join(place.name for place in places)}"
    for place in places:
        shape, layer = shapes[place.name], place.name.rpartition(".")[0]
        if layer in quantized:  # a bias too is of the float layer, and not of what it was rounded to
            return f"{keys}: {layer} holds codes, not floats; merge LoRAs before quantizing"
        rows = shape if place.rows is None else (place.rows[1] - place.rows[0], *shape[1:])
        if not _fits((*_length(place.of_change, delta.shape[:1]), *delta.shape[1:]), rows):
            return f"{keys}: {delta.shape} cannot be added to {place.name} {shape}"
    return None


def _length(rows: Range | None, of_all: tuple[int, ...]) -> tuple[int, ...]:
    return of_all if rows is None else (rows[1] - rows[0],)


def _fits(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether a tensor is the target, but for dimensions of one, or the target flattened to rows."""
    rows = (*target[:1], prod(target[1:]))
    long, *allowed = ([size for size in sizes if size != 1] for sizes in (shape, target, rows))
    return long in allowed


def _meanings(shapes: Shapes, namings: Iterable[Names]) -> Meanings:
    """Every tensor by its own name and by those of other schemes, dotted and flat."""
    meanings: defaultdict[str, set[tuple[Place, ...]]] = defaultdict(set)
    own = ((name, (Place(name),)) for name in shapes)
    for alias, places in chain(own, *(naming.aliases(shapes) for naming in namings)):
        owner, _, leaf = alias.rpartition(".")
        meanings[alias].add(places)
        meanings[f"{FLAT}{owner.replace('.', '_')}.{leaf}"].add(places)
    return meanings
