"""The processors of attention as our `attention` section: grids of queries, keys and values, and where each holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from llmc.compat.modelslim.match import Attention, fits, rules_for, unmatched
from llmc.compat.modelslim.schema import Fa3Quant, FaDetails, OnlineQuarot, Processor, QConfig
from llmc.compat.modelslim.section import Section
from llmc.config.attention import FORMATS
from llmc.config.document import KeyPath
from llmc.config.explain import Problem
from llmc.export.mindie.attention import TYPES
from llmc.export.mindie.types import Version

INT8 = QConfig(dtype="int8", scope="per_head", symmetric=True, method="minmax")  # what fa3_quant alone means
GRIDS: dict[tuple[str, str], dict[str, Any]] = {
    ("int8", "per_head"): {"bit": 8, "static": True},
    ("fp8_e4m3", "per_token"): {"bit": "e4m3"},
    ("mxfp8", "per_block"): {"bit": "mxfp8"},
    ("mxfp4", "per_block"): {"bit": "mxfp4"},
}


def attention_section(processors: Sequence[tuple[KeyPath, Processor]], attentions: Sequence[Attention]) -> Section:
    """What attention itself is quantized to; no values if it stays float."""
    section = Section()
    quants = [(keys, found) for keys, found in processors if isinstance(found, Fa3Quant)]
    rotations = [(keys, found) for keys, found in processors if isinstance(found, OnlineQuarot)]
    if not quants:
        for keys, _ in rotations:
            text = "it rotates queries and keys for quantized attention, and no fa3_quant asks for that: leave it out"
            section.problems.append(Problem(keys, text))
        return section
    rotated = frozenset[str]()
    for keys, processor in rotations:
        rotated |= _taken(section, attentions, keys, processor.include or ("*",), processor.exclude or ())
        if processor.block_size != -1:
            text = f"it is {processor.block_size}; heads are rotated as a whole: write -1"
            section.problems.append(Problem((*keys, "block_size"), text))
    grids: dict[str, dict[str, Any]] = {}  # of each attention that is quantized, by its original name
    for keys, quant in quants:
        grid = _grid(section, keys, quant)
        taken = _taken(section, attentions, keys, quant.include, quant.exclude)
        if not taken:
            section.problems.append(Problem((*keys, "include"), "no attention is left for it; leave it out"))
        if twice := sorted(name for name in taken if grids.setdefault(name, grid) != grid):
            text = f"it gives {twice[0]} another grid than an earlier fa3_quant does: exclude it from one of both"
            section.problems.append(Problem((*keys, "include"), text))
    if section.problems:
        return section
    _set_values(section, attentions, {
        name: {**grid, "rotate": "online" if name in rotated else None} for name, grid in grids.items()
    })  # fmt: skip
    section.sources[()] = quants[0][0]
    return section


def _set_values(section: Section, attentions: Sequence[Attention], grids: Mapping[str, dict[str, Any]]) -> None:
    """The commonest grid for all that is quantized, and rules for those that have another."""
    kinds: list[dict[str, Any]] = []
    for grid in grids.values():
        kinds += [grid] if grid not in kinds else []
    chosen = {found.name: kinds.index(grids[found.original]) for found in attentions if found.original in grids}
    usual = Counter(chosen.values()).most_common(1)[0][0]
    places = rules_for({found.name: 0 if found.name in chosen else None for found in attentions}, None)
    section.values = {key: value for key, value in kinds[usual].items() if value is not None}
    section.values["include"] = [glob for glob, choice in places if choice is not None]
    if left := [glob for glob, choice in places if choice is None]:
        section.values["exclude"] = left
    rules = [(glob, kinds[kind]) for glob, kind in rules_for(chosen, usual) if kind is not None]
    if rules:
        section.values["rules"] = [{"match": glob, **_changes(grid, kinds[usual])} for glob, grid in rules]
    if any(grid["bit"] != 8 for grid in kinds):
        section.save["soc"] = "a5"  # no other chip attends in floats of 8 and 4 bits
    names = [FORMATS[str(grid["bit"])] for grid in kinds]
    reading = [version for version in get_args(Version) if all(version in TYPES[name].versions for name in names)]
    if len(reading) == 1:
        section.save["mindie_version"] = reading[0]
        section.notes.append(f"mindie_version is {reading[0]}, which alone reads attention in {' and '.join(names)}")


def _changes(grid: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """What a rule has to say; values of another grid follow its bit."""
    changes = {key: grid[key] for key in ("bit", "v_bit") if key in grid}
    for key, absent in (("static", False), ("rotate", None)):
        if grid.get(key, absent) != usual.get(key, absent):
            changes[key] = grid.get(key, absent)
    return changes


def _grid(section: Section, keys: KeyPath, processor: Fa3Quant) -> dict[str, Any]:
    """The grid of one processor in our words; empty if it cannot be had."""
    details = processor.details or FaDetails()
    q, k, v = (
        found or processor.qconfig or INT8 for found in (details.fa_q, details.fa_k, details.fa_v)
    )  # fmt: skip
    for found in (q, k, v):
        if (found.dtype, found.scope) not in GRIDS or not found.symmetric or found.method != "minmax":
            allowed = "; ".join(f"{dtype} {scope} symmetric by minmax" for dtype, scope in GRIDS)
            section.problems.append(Problem(keys, f"{found} is no grid of attention; allowed: {allowed}"))
            return {}
    if q != k:
        text = f"q is {q}, and k {k}; they are multiplied on one grid: give them one"
        section.problems.append(Problem((*keys, "details"), text))
    grid = GRIDS[q.dtype, q.scope]
    return grid if v == q else {**grid, "v_bit": GRIDS[v.dtype, v.scope]["bit"]}


def _taken(
    section: Section, attentions: Sequence[Attention], keys: KeyPath, include: Sequence[str], exclude: Sequence[str]
) -> frozenset[str]:
    """The original names of the attentions that a processor takes; globs may be over what is inside of them too."""
    names = [name for found in attentions for name in (found.original, *found.inside)]
    section.problems += _unmatched(names, keys, include, "include")
    section.problems += _unmatched(names, keys, exclude, "exclude")

    def hit(found: Attention, globs: Sequence[str]) -> bool:
        return any(fits(name, glob) for name in (found.original, *found.inside) for glob in globs)

    return frozenset(
        found.original for found in attentions if hit(found, include) and not hit(found, exclude)
    )  # fmt: skip


def _unmatched(names: Sequence[str], keys: KeyPath, globs: Sequence[str], key: str) -> Iterator[Problem]:
    for glob, near in unmatched(names, globs).items():
        text = f"the pattern {glob!r} matches no attention; they are named like {', '.join(near)}"
        yield Problem((*keys, key, globs.index(glob)), text)
