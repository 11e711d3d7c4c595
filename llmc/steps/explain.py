"""Which layer gets what, told from the model's configuration alone: no weights are read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmc.config.schema import Config
from llmc.export.base import Carrier, as_computed
from llmc.export.folding import carrier
from llmc.models.base import LinearGroup
from llmc.steps.network import is_carried


@dataclass(frozen=True)
class Row:
    """Linears that are alike in every block but for the block's number."""

    pattern: str  # with {} for the number
    blocks: tuple[int, ...]
    spec: str
    smoothing: str


def explain(config: Config) -> str:
    """The table layer -> spec -> smoothing of every part, the methods, and how many layers each rule matches; the
    sizes of layers were checked before."""
    lines = ["methods: " + ", then ".join(method.name for method in config.recipe())]
    policy = config.policy()
    exporters = [exporter for exporter, _ in config.save.targets()]
    for part in config.model.adapter().skeleton(config.model.path):
        found: dict[tuple[str, str, str], list[int]] = {}
        names = []
        for number, (block, module) in enumerate(part.blocks):
            for group in part.groups(module):
                who = carrier([module.get_submodule(name) for name in group.fold])
                specs = [policy.spec_of(f"{block}.{linear}") for linear in group.linears]
                scale = smoothing(group, who, is_carried(who, specs, exporters))
                for linear in group.linears:
                    name = f"{block}.{linear}"
                    names.append(name)
                    spec = str(as_computed(policy.spec_of(name), exporters))
                    key = (re.sub(r"\.\d+\.", ".{}.", name, count=1), spec, scale)
                    found.setdefault(key, []).append(number)
        rows = [Row(pattern, tuple(numbers), spec, scale) for (pattern, spec, scale), numbers in found.items()]
        lines += ["", f"{part.name}: {len(part.blocks)} blocks, {len(names)} linears", *table(rows)]
        lines += [f"rule {glob}: {count} layers" for glob, count in policy.check(names).items()]
        for exporter in exporters:
            tiles = {exporter.multiples(policy.spec_of(name)) for name in names} - {(1, 1)}
            lines += [f"{exporter.name}: sizes are multiples of {ins} inputs and {outs} outputs, as its kernels need"
                      for ins, outs in sorted(tiles)]  # fmt: skip
    return "\n".join(lines)


def smoothing(group: LinearGroup, by: Carrier, carried: bool) -> str:
    """Who multiplies, if a method scales this input."""
    if not carried:
        return "cannot be carried: not smoothed"
    if by in ("linear", "norm"):
        return "folds into " + ", ".join(group.fold)
    return " beside ".join(("at run time", *group.fold))


def table(rows: Sequence[Row]) -> list[str]:
    """The rows as aligned text."""
    cells = [("layer", "blocks", "spec", "a scale of its input")]
    cells += [(row.pattern, ranges(row.blocks), row.spec, row.smoothing) for row in rows]
    widths = [max(len(cell[column]) for cell in cells) for column in range(3)]
    return ["  " + "  ".join([*(c.ljust(w) for c, w in zip(cell, widths, strict=False)), cell[3]]) for cell in cells]


def ranges(numbers: Iterable[int]) -> str:
    """`0-3,7` of 0, 1, 2, 3, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
