"""The processors of the dialect as our `quant` section: methods in order, and rules by layer name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from llmc.compat.modelslim.grids import grid_of, grids_of, problem_of, rounding_of
from llmc.compat.modelslim.match import Choice, Layer, rules_for, selected, unmatched
from llmc.compat.modelslim.schema import (
    AwqProcessor,
    FlexAwqProcessor,
    FlexSmoothProcessor,
    Group,
    IterSmoothProcessor,
    LinearQuant,
    Processor,
    Smoothing,
    SmoothQuantProcessor,
    Spec,
)
from llmc.compat.modelslim.section import Section
from llmc.config.document import KeyPath
from llmc.config.explain import Problem

Placed = tuple[KeyPath, Any]  # a processor, and where it stands


def flat(processors: Sequence[Processor], keys: KeyPath) -> Iterator[Placed]:
    """The processors in order, those of groups among them."""
    for index, processor in enumerate(processors):
        if isinstance(processor, Group):
            yield from flat(processor.configs, (*keys, index, "configs"))
        else:
            yield (*keys, index), processor


def processor_problems(keys: KeyPath, processor: Processor) -> Iterator[Problem]:
    """What cannot be had of a processor, whatever the model."""
    match processor:
        case LinearQuant(qconfig=qconfig) | FlexAwqProcessor(qconfig=qconfig):
            for side in ("act", "weight"):
                if found := problem_of(getattr(qconfig, side), side):
                    yield Problem((*keys, "qconfig", side, found[0]), found[1])
        case AwqProcessor(weight_qconfig=qconfig):
            if found := problem_of(qconfig, "weight"):
                yield Problem((*keys, "weight_qconfig", found[0]), found[1])
    if getattr(processor, "symmetric", True) is False:
        yield Problem((*keys, "symmetric"), "it is False; inputs can be scaled, not shifted: write `symmetric: True`")
    if "norm-linear" not in getattr(processor, "enable_subgraph_type", ("norm-linear",)):
        text = (
            "it lacks norm-linear; all scales are multiplied at run time, which msModelSlim calls norm-linear in "
            "these models, so nothing would be smoothed: add it, or leave the key out"
        )
        yield Problem((*keys, "enable_subgraph_type"), text)


def quant_section(processors: Sequence[Placed], layers: Sequence[Layer], spec: Spec) -> Section:
    """How the networks are quantized."""
    section = Section()
    linears: list[tuple[KeyPath, LinearQuant]] = [
        (keys, processor) for keys, processor in processors if isinstance(processor, LinearQuant)
    ]
    if not linears:
        text = "no linear_quant is among them, so no linear would be quantized: add one"
        section.problems.append(Problem(("spec", "process"), text))
        return section
    choices = _choices(section, linears, layers)
    _check_smoothing(section, processors, layers, choices)
    _set_methods(section, processors, linears)
    if section.problems:
        return section
    _set_grids(section, linears, choices)
    _check_data(section, spec)
    return section


def _choices(
    section: Section, linears: Sequence[tuple[KeyPath, LinearQuant]], layers: Sequence[Layer]
) -> dict[str, Choice]:
    """Which linear_quant takes each layer; the first that fits does."""
    names = list(dict.fromkeys(layer.original for layer in layers))
    choices: dict[str, Choice] = {layer.name: None for layer in layers if layer.quantizable}
    left_float: dict[str, None] = {}
    for number, (keys, processor) in enumerate(linears):
        for key in ("include", "exclude"):
            section.problems += _unmatched_problems(names, getattr(processor, key), (*keys, key))
        found = selected(layers, processor.include, processor.exclude)
        free = [layer.name for layer in found if layer.name in choices and choices[layer.name] is None]
        choices |= dict.fromkeys(free, number)
        left_float |= dict.fromkeys(layer.original for layer in found if layer.in_block and not layer.quantizable)
        if not free:
            text = f"no layer is left for it: {_why_none(found)}; mend include or exclude, or leave it out"
            section.problems.append(Problem((*keys, "include"), text))
    if left_float:
        some = ", ".join(list(left_float)[:3])
        section.notes.append(f"{len(left_float)} linears of blocks that modulate stay float, such as {some}")
    return choices


def _why_none(found: Sequence[Layer]) -> str:
    if not found:
        return "exclude takes all that include gives"
    if any(layer.quantizable for layer in found):
        return "earlier linear_quants take all that it includes"
    return f"what it includes stays float here, such as {found[0].original}"


def _unmatched_problems(names: Sequence[str], globs: Sequence[str], keys: KeyPath) -> Iterator[Problem]:
    for glob, near in unmatched(names, globs).items():
        text = f"the pattern {glob!r} matches no layer; layers are named like {', '.join(near)}"
        yield Problem((*keys, globs.index(glob)), text)


def _check_smoothing(
    section: Section, processors: Sequence[Placed], layers: Sequence[Layer], choices: dict[str, Choice]
) -> None:
    """A method works on every quantized layer: one that is to leave some of them out cannot be had."""
    for keys, processor in processors:
        if not isinstance(processor, Smoothing):
            continue
        smoothed = {layer.name for layer in selected(layers, processor.include or ("*",), processor.exclude or ())}
        quantized = [layer for layer in layers if choices.get(layer.name) is not None]
        missing = [layer.original for layer in quantized if layer.name not in smoothed]
        if missing:
            text = (
                f"it leaves out {len(missing)} quantized layers, such as {missing[0]}, and methods work on all of them "
                "(each keeps a scale only where it lowers the measured error): leave include and exclude out"
            )
            section.problems.append(Problem(keys, text))


def _set_methods(
    section: Section, processors: Sequence[Placed], linears: Sequence[tuple[KeyPath, LinearQuant]]
) -> None:
    rounding = rounding_of(linears[0][1].qconfig.weight)
    for keys, processor in linears[1:]:
        other = rounding_of(processor.qconfig.weight)
        if other != rounding:
            text = (
                f"it is {processor.qconfig.weight.method}, and {linears[0][1].qconfig.weight.method} in the first "
                "linear_quant; one method rounds all layers here: write one of them in both"
            )
            section.problems.append(Problem((*keys, "qconfig", "weight", "method"), text))
    methods: list[dict[str, Any]] = []
    for keys, processor in processors:
        method = rounding if processor is linears[0][1] else _method(processor)
        if method is not None:
            section.sources[("method", len(methods))] = keys
            methods.append(method)
    section.problems += _search_problems(processors, linears)
    if any(isinstance(processor, FlexAwqProcessor) for _, processor in processors):
        section.notes.append("flex_awq_ssz is FlexSmooth with beta 0, whose search rounds weights plainly, not by ssz")
    acts = {processor.qconfig.act.method for _, processor in linears if processor.qconfig.act.scope == "per_tensor"}
    if "histogram" in acts:
        methods.append({"name": "Static", "range": "mse"})
        if "minmax" in acts:
            text = "it is histogram in one linear_quant and minmax in another; one method finds all ranges of acts here"
            section.problems.append(Problem((*linears[0][0], "qconfig", "act", "method"), text))
    section.values["method"] = methods


def _search_problems(processors: Sequence[Placed], linears: Sequence[tuple[KeyPath, LinearQuant]]) -> Iterator[Problem]:
    """A search rounds by each layer's own grids: it can have no others."""
    text = "it is another grid than linear_quant's; the search rounds by each layer's own: write the same here"
    for keys, processor in processors:
        for _, linear in linears:
            match processor:
                case AwqProcessor(weight_qconfig=weight) if grid_of(weight, "weight") != grid_of(
                    linear.qconfig.weight, "weight"
                ):
                    yield Problem((*keys, "weight_qconfig"), text)
                case FlexAwqProcessor(qconfig=qconfig) if grids_of(qconfig) != grids_of(linear.qconfig):
                    yield Problem((*keys, "qconfig"), text)


def _method(processor: Processor) -> dict[str, Any] | None:
    """The method that a processor is here; None: it is none."""
    match processor:
        case SmoothQuantProcessor(alpha=alpha):
            return {"name": "SmoothQuant", "alpha": alpha}
        case IterSmoothProcessor(alpha=alpha, scale_min=scale_min):
            return {"name": "IterSmooth", "alpha": alpha, "scale_min": scale_min}
        case FlexSmoothProcessor(alpha=alpha, beta=beta):
            return {"name": "FlexSmooth", **{k: v for k, v in (("alpha", alpha), ("beta", beta)) if v is not None}}
        case FlexAwqProcessor(alpha=alpha, beta=beta):
            return {"name": "FlexSmooth", **({} if alpha is None else {"alpha": alpha}), "beta": beta or 0.0}
        case AwqProcessor(n_grid=grid):
            return {"name": "Awq", "grid": grid, "clip": False}
    return None


def _set_grids(section: Section, linears: Sequence[tuple[KeyPath, LinearQuant]], choices: dict[str, Choice]) -> None:
    grids = [grids_of(processor.qconfig) for _, processor in linears]
    alike = {name: None if number is None else grids.index(grids[number]) for name, number in choices.items()}
    default = Counter(number for number in alike.values() if number is not None).most_common(1)[0][0]
    section.values |= {side: grid for side, grid in grids[default].items() if grid is not None}
    rules = rules_for(alike, default)
    if rules:
        section.values["rules"] = [
            {"match": glob, **({"skip": True} if number is None else grids[number])} for glob, number in rules
        ]
    section.sources |= {(): linears[default][0]}
    section.sources |= {
        ("rules", index): linears[0 if number is None else number][0] for index, (_, number) in enumerate(rules)
    }
    if any(str(grid["bit"]).startswith("mx") for pair in grids for grid in pair.values() if grid):
        section.save["soc"] = "a5"  # no other chip has microscaling


def _check_data(section: Section, spec: Spec) -> None:
    static = [section.values.get("act"), *(rule.get("act") for rule in section.values.get("rules", ()))]
    learning = [method["name"] for method in section.values["method"] if method["name"] != "RTN"]
    learning += ["static act scales"] if any(act and act.get("static") for act in static) else []
    if learning and not spec.multimodal_sd_config.dump_config.enable_dump:
        keys = ("spec", "multimodal_sd_config", "dump_config", "enable_dump")
        text = f"it is False, but {' and '.join(learning)} cannot be had without data; write `enable_dump: True`"
        section.problems.append(Problem(keys, text))
