"""The processors of attention as our `attention` section: one grid of queries, keys and values, and where it holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from llmc.config.document import KeyPath
from llmc.config.explain import Problem
from llmc.config.modelslim.match import Attention, Choice, fits, rules_for, unmatched
from llmc.config.modelslim.schema import Fa3Quant, FaDetails, OnlineQuarot, Processor, QConfig
from llmc.config.modelslim.section import Section

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
    grids = [_grid(section, keys, found) for keys, found in quants]
    for (keys, _), grid in zip(quants[1:], grids[1:], strict=True):
        if grid != grids[0]:
            text = "its grid is another than that of the first fa3_quant; one holds for all attention: write it in all"
            section.problems.append(Problem(keys, text))
    taken = [_taken(section, attentions, keys, found.include, found.exclude) for keys, found in quants]
    chosen = frozenset[str]().union(*taken)
    rotated = [
        _taken(section, attentions, keys, found.include or ("*",), found.exclude or ()) for keys, found in rotations
    ]
    for (keys, processor), names in zip(rotations, rotated, strict=True):
        if missing := sorted(chosen - names):
            text = f"it leaves out {missing[0]}, which fa3_quant takes; one of both ways holds for all attention here"
            section.problems.append(Problem((*keys, "include"), text))
        if processor.block_size != -1:
            text = f"it is {processor.block_size}; heads are rotated as a whole: write -1"
            section.problems.append(Problem((*keys, "block_size"), text))
    if not chosen:
        section.problems.append(Problem((*quants[0][0], "include"), "no attention is left for it; leave it out"))
    if section.problems:
        return section
    choices: dict[str, Choice] = {found.name: 0 if found.original in chosen else None for found in attentions}
    rules = rules_for(choices, None)
    section.values = {**grids[0], "include": [glob for glob, choice in rules if choice is not None]}
    if left := [glob for glob, choice in rules if choice is None]:
        section.values["exclude"] = left
    if rotations:
        section.values["rotate"] = "online"
    if grids[0]["bit"] != 8:
        section.save["soc"] = "a5"  # no other chip attends in floats of 8 and 4 bits
    section.sources[()] = quants[0][0]
    return section


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
