"""Which layer gets what, told from the model's configuration alone: no weights are read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmc.config.schema import Config
from llmc.engine.attention import attention_names
from llmc.engine.network import is_carried, layer_names
from llmc.export.base import Exporter
from llmc.layers.target import Carrier, as_computed, as_computed_attention, carrier_of
from llmc.models.parts import LinearGroup, Part, linear_of
from llmc.policy.attention import AttentionPolicy
from llmc.policy.rules import block_number


@dataclass(frozen=True)
class Row:
    """Linears that are alike in every block but for the block's number."""

    pattern: str  # with {} for the number
    blocks: tuple[int, ...]
    spec: str
    smoothing: str


def explain(config: Config, parts: Sequence[Part]) -> str:
    """The table layer -> spec -> smoothing of every part, the methods, and how many layers each rule matches; the
    sizes of layers were checked before."""
    lines = ["methods: " + ", then ".join(method.name for method in config.recipe())]
    exporters = [exporter for exporter, _ in config.save.targets()]
    attention = config.attention_policy()
    for part in parts:
        policy = config.policy(part.section)
        targets = [exporter if part.is_denoiser else exporter.for_encoders() for exporter in exporters]
        found: dict[tuple[str, str, str], list[int]] = {}
        for block, module in part.blocks:
            for group in part.groups(module):
                who = carrier_of([module.get_submodule(linear_of(fold)) for fold in group.fold])
                specs = [policy.spec_of(f"{block}.{linear}", part.name) for linear in group.linears]
                scale = smoothing(group, who, is_carried(who, specs, targets))
                for linear in group.linears:
                    name = f"{block}.{linear}"
                    spec = str(as_computed(policy.spec_of(name, part.name), targets))
                    key = (re.sub(r"\.\d+\.", ".{}.", name, count=1), spec, scale)
                    found.setdefault(key, []).append(int(block.rpartition(".")[2]))
        rows = [Row(pattern, tuple(numbers), spec, scale) for (pattern, spec, scale), numbers in found.items()]
        expert = f" ({part.expert.replace('_', ' ')} expert)" if part.expert else ""
        names = layer_names(part)
        lines += ["", f"{part.name}{expert}: {len(part.blocks)} blocks, {len(names)} linears", *table(rows)]
        for exporter in targets:
            tiles = {exporter.multiples(policy.spec_of(name, part.name)) for name in names} - {(1, 1)}
            lines += [f"{exporter.name}: sizes are multiples of {ins} inputs and {outs} outputs, as its kernels need"
                      for ins, outs in sorted(tiles)]  # fmt: skip
        if attention is not None and part.is_denoiser:
            lines += attention_lines(part, attention, targets)
    for section in config.quant.sections():
        matched = config.policy(section).check(
            {part.name: layer_names(part) for part in parts if part.section == section}
        )
        lines += [f"rule {glob}: {count} layers" for glob, count in matched.items()]
    if attention is not None:
        names_of = {part.name: attention_names(part) for part in parts if part.is_denoiser}
        lines += [f"attention {glob}: {count} attentions" for glob, count in attention.check(names_of).items()]
    return "\n".join(lines)


def attention_lines(part: Part, policy: AttentionPolicy, targets: Sequence[Exporter]) -> list[str]:
    """Which attentions are quantized, alike ones in one line."""
    found: dict[tuple[str, str], list[int]] = {}
    for name in attention_names(part):
        spec = policy.spec_of(name, part.name)
        said = "float" if spec is None else str(as_computed_attention(spec, targets))
        key = (re.sub(r"\.\d+\.", ".{}.", name, count=1), said)
        found.setdefault(key, []).append(block_number(name) or 0)
    cells = [("attention", "blocks", "spec")]
    cells += [(pattern, ranges(numbers), said) for (pattern, said), numbers in found.items()]
    widths = [max(len(cell[column]) for cell in cells) for column in range(2)]
    return [f"  {name:<{widths[0]}}  {blocks:<{widths[1]}}  {said}" for name, blocks, said in cells]


def smoothing(group: LinearGroup, by: Carrier, carried: bool) -> str:
    """Who multiplies, if a method scales this input."""
    if not carried:
        return "cannot be carried: not smoothed"
    names = [str(fold) for fold in group.fold]
    if by in ("linear", "norm"):
        return "folds into " + ", ".join(names)
    return " beside ".join(("at run time", *names))


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
