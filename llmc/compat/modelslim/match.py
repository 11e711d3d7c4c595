"""Which layers msModelSlim's globs mean: names of the original repository, turned into rules over ours."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

import torch

from llmc.export.mindie.names import table_of
from llmc.models.base import ModelAdapter
from llmc.models.parts import Part
from llmc.renames import Fused, Original, Swapped

MOST = 10  # globs that fit nothing, for which names are looked for that were perhaps meant
NUMBER = re.compile(r"\.(\d+)(?=\.|$)")
Choice = int | None  # the number of a linear_quant; None: float


@dataclass(frozen=True)
class Layer:
    """One linear of a network."""

    name: str  # ours
    original: str  # of the runtime's repository; linears that are one layer there have one name
    in_block: bool
    quantizable: bool


@dataclass(frozen=True)
class Attention:
    """One self-attention of a network."""

    name: str  # ours
    original: str
    inside: tuple[str, ...]  # original names of the linears that make its queries, keys and values


def attentions_of(adapter: type[ModelAdapter], parts: Sequence[Part]) -> list[Attention]:
    """Every self-attention of the denoising networks, each name once."""
    found: dict[str, Attention] = {}
    for part in parts:
        table = names_of(table_of(adapter.renames, adapter.original(part.module)))
        for block, module in part.blocks:
            for attention in (own for own, reads_itself in part.attentions(module).items() if reads_itself):
                name = f"{block}.{attention}"
                inside = dict.fromkeys(original_name(f"{name}.to_{letter}", table) for letter in "qkv")
                original = next(iter(inside)).rpartition(".")[0]
                found[name] = Attention(name, original, tuple(inside))
    return list(found.values())


def layers_of(adapter: type[ModelAdapter], parts: Sequence[Part]) -> list[Layer]:
    """Every linear of the denoising networks, each name once: experts have the same."""
    found: dict[str, Layer] = {}
    for part in parts:
        table = names_of(table_of(adapter.renames, adapter.original(part.module)))
        blocks = tuple(f"{block}." for block, _ in part.blocks)
        quantizable = {
            f"{block}.{linear}"
            for block, module in part.blocks for group in part.groups(module) for linear in group.linears
        }  # fmt: skip
        for name, module in part.module.named_modules():
            if isinstance(module, torch.nn.Linear):
                found[name] = Layer(name, original_name(name, table), name.startswith(blocks), name in quantizable)
    return list(found.values())


def names_of(table: Original) -> dict[str, str]:
    """Our name, with `{}` for the block's number -> the original's."""
    names: dict[str, str] = {}
    for row in table:
        match row:
            case Fused(sources, target):
                names |= dict.fromkeys(sources, target)
            case Swapped(source, target) | (source, target):
                names[source] = target
    return names


def original_name(name: str, names: Mapping[str, str]) -> str:
    """The name in the original repository; a name that the table lacks is the same there."""
    number = NUMBER.search(name)
    pattern = name if number is None else f"{name[: number.start(1)]}{{}}{name[number.end(1) :]}"
    target = names.get(name) or names.get(pattern, name)
    return target if number is None else target.replace("{}", number[1])


def fits(name: str, glob: str) -> bool:
    """Whether a name fits a glob with `*`, `?`, `[...]` and `{a,b}`."""
    return any(fnmatchcase(name, plain) for plain in expand(glob))


def expand(glob: str) -> Iterator[str]:
    """A glob without braces for each choice of one alternative in every `{a,b}`, as a shell does it."""
    opened: list[int] = []
    for index, character in enumerate(glob):
        if character == "{":
            opened.append(index)
        elif character == "}" and opened:
            start = opened.pop()
            alternatives = list(_alternatives(glob[start + 1 : index]))
            if not opened and len(alternatives) > 1:
                for inner in alternatives:
                    yield from expand(glob[:start] + inner + glob[index + 1 :])
                return
    yield glob


def _alternatives(text: str) -> Iterator[str]:
    """The text cut at its commas, but for those within inner braces."""
    depth = start = 0
    for index, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if character == "," and depth == 0:
            yield text[start:index]
            start = index + 1
    yield text[start:]


def selected(layers: Iterable[Layer], include: Iterable[str], exclude: Iterable[str]) -> list[Layer]:
    """The layers that some glob includes and none excludes."""
    return [
        layer for layer in layers
        if any(fits(layer.original, glob) for glob in include)
        and not any(fits(layer.original, glob) for glob in exclude)
    ]  # fmt: skip


def unmatched(names: Sequence[str], globs: Iterable[str]) -> dict[str, list[str]]:
    """Each glob that fits no name -> some names that were perhaps meant."""
    missing = [glob for glob in globs if not any(fits(name, glob) for name in names)]
    near = {glob: get_close_matches(glob.strip("*"), names, n=3, cutoff=0.3) for glob in missing[:MOST]}
    return {glob: near.get(glob) or list(names[:3]) for glob in missing}


def rules_for(choices: Mapping[str, Choice], default: Choice) -> list[tuple[str, Choice]]:
    """Rules, the first that fits wins, by which every layer has its choice: as few as blocks that are alike allow."""
    by_kind: defaultdict[str, dict[str, Choice]] = defaultdict(dict)  # a layer's name with * for its block's number
    by_block: defaultdict[str, dict[str, Choice]] = defaultdict(dict)
    for name, choice in choices.items():
        by_kind[NUMBER.sub(".*", name, count=1)][name] = choice
        by_block[_block(name)][name] = choice
    usual = {kind: Counter(found.values()).most_common(1)[0][0] for kind, found in by_kind.items()}
    special: dict[str, Choice] = {}
    for block, found in by_block.items():
        unusual = {name: choice for name, choice in found.items() if choice != usual[NUMBER.sub(".*", name, count=1)]}
        if unusual and len(set(found.values())) == 1:
            special[f"{block}.*"] = next(iter(unusual.values()))
        else:
            special |= unusual
    return [*special.items(), *((kind, choice) for kind, choice in usual.items() if choice != default)]


def _block(name: str) -> str:
    number = NUMBER.search(name)
    return name if number is None else name[: number.end()]
