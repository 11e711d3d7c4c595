"""What `quant` asks for: whether methods, grids and steps fit one another, and the targets of `save` can store them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

from llmc.config.document import KeyPath
from llmc.config.explain import Problem
from llmc.config.quant import NetworkConfig
from llmc.config.schema import Config, IgnoredLayersConfig
from llmc.errors import LlmcError, UnsupportedSpec
from llmc.export.base import Exporter
from llmc.layers.target import as_computed
from llmc.numerics.float_round import need_build_tools
from llmc.numerics.spec import LayerSpec
from llmc.renames import ORIGINAL
from llmc.section import Section

# field of Sampling -> its key in `eval`: what says which step has which noise
EVAL_SCHEDULE = {"steps": "steps", "shift": "sample_shift", "denoising_step_list": "denoising_step_list"}
ROTATES = frozenset({"rotate", "rotate_regular"})
CHANGES_ACTS = frozenset({"scale", "static", *ROTATES})  # what methods leave that changes how acts are rounded


def recipe_problems(config: Config) -> Iterator[Problem]:
    """Why what is asked of the layers cannot be done, or not be stored."""
    checks = (
        order_problems,
        basis_problems,
        per_step_problems,
        target_problems,
        attention_problems,
        arithmetic_problems,
        rounding_problems,
    )
    for check in checks:
        yield from check(config)


def order_problems(config: Config) -> Iterator[Problem]:
    """Whether each method finds the weights and the acts in a state that it can work on."""
    for section in config.quant.sections():
        rounding: str | None = None
        fixing: str | None = None
        for index, method in enumerate(config.recipe(section)):
            if fixing is not None and method.leaves & CHANGES_ACTS:
                text = f"{method.name} comes after {fixing}, which has fixed the scales of acts"
                what = "leave one of them out" if "static" in method.leaves else f"put {method.name} before it"
                yield Problem(("quant", section, "method", index), f"{text}; {what}")
            if rounding is not None and not method.works_on_rounded:
                text = (
                    f"{method.name} comes after {rounding}, which has rounded the weights; put {method.name} before it"
                )
                yield Problem(("quant", section, "method", index), text)
            if "rounded" in method.leaves:
                rounding = method.name
            if "static" in method.leaves:
                fixing = method.name


def basis_problems(config: Config) -> Iterator[Problem]:
    """Whether targets can store one change of basis after the other."""
    exporters = [exporter for exporter, _ in config.save.targets()]
    for section, quant in config.quant.sections().items():
        rotating: str | None = None
        for index, method in enumerate(quant.method):
            keys: KeyPath = ("quant", section, "method", index)
            for exporter, (_, spec) in product(exporters, _specs(section, quant) if rotating else ()):
                if "scale" in method.leaves and "nobody" not in exporter.carries(spec):
                    text = f"{exporter.name} folds smoothing into what is before a layer, where no rotation is yet"
                    yield Problem(keys, f"{text}; put {method.name} before {rotating}")
                    break
            if rotating and "rotate_regular" in method.leaves:
                yield Problem(
                    keys, f"{rotating} rotates online already, and runtimes rotate once; leave one of them out"
                )
            rotating = method.name if method.leaves & ROTATES else rotating


def per_step_problems(config: Config) -> Iterator[Problem]:
    """Whether a method that keeps something for each step finds the steps in calibration that will run."""
    if config.calib is None:  # such a method needs it
        return
    calib, samplings = config.calib_sampling(), config.eval_samplings()
    for section, quant in config.quant.sections().items():
        methods = [(index, method) for index, method in enumerate(quant.method) if "steps" in method.leaves]
        for index, method in methods:
            keys: KeyPath = ("quant", section, "method", index)
            acts = [spec.act for _, spec in _specs(section, quant) if spec.act is not None and not spec.act.dynamic]
            if not acts:
                text = f"{method.name} finds scales of acts with `static: True`, and there is none"
                yield Problem(keys, f"{text}; write `act: {{bit: 8, granularity: per_tensor, static: True}}`")
            for act in {act.format.name for act in acts if act.format.whole_max is not None}:
                yield Problem(keys, f"{method.name} cannot keep scales of {act} for each step; use Static")
            if (problem := method.schedule_problem(calib.steps)) is not None:
                yield Problem(keys, problem)
            if isinstance(config.calib.max_calls, int) and config.calib.max_calls < calib.steps:
                text = (
                    f"max_calls is {config.calib.max_calls}, and {method.name} keeps scales for each of {calib.steps} "
                    f"steps, so that some would never be seen; write at least {calib.steps}, or null for all calls"
                )
                yield Problem(("calib", "max_calls"), text)
            for field, key in EVAL_SCHEDULE.items():
                wanted = getattr(calib, field)
                if samplings and getattr(samplings[0], field) != wanted:
                    found = f"it is {getattr(samplings[0], field)}, and {method.name} has scales for the steps of calib"
                    yield Problem(("eval", key), f"{found}, where it is {wanted}; write the same, or leave it out")


def target_problems(config: Config) -> Iterator[Problem]:
    """Whether each target can store what the methods and grids leave."""
    exporters = [exporter for exporter, _ in config.save.targets()]
    for exporter in exporters:
        yield from _name_problems(config, exporter)
        if (problem := _source_problem(config, exporter)) is not None:
            yield Problem(("save", exporter.name), f"{exporter.name} was asked for in `save`, and {problem}")
        if exporter.tells_sampling and config.calib is None and config.eval is None:
            text = f"{exporter.name} writes how videos are made beside the weights, and neither calib nor eval says it"
            yield Problem(("save", exporter.name), f"{text}: give one of them")
    for section, quant in config.quant.sections().items():
        left = frozenset[str]().union(*(method.leaves for method in quant.method))
        specs = _specs(section, quant)
        if section == Section.VIDEO_GEN and config.ignored_layers != IgnoredLayersConfig():
            specs.append((("ignored_layers",), LayerSpec()))
        targets = [exporter if section == Section.VIDEO_GEN else exporter.for_encoders() for exporter in exporters]
        for exporter in targets:
            yield from _grid_problems(exporter, specs, left)
        for keys, spec in specs:
            try:
                as_computed(spec, targets)
            except UnsupportedSpec as error:
                yield Problem(keys, str(error))


def attention_problems(config: Config) -> Iterator[Problem]:
    """Whether each target can store how attention is quantized."""
    policy = config.attention_policy()
    if policy is None:
        return
    keys: KeyPath = ("quant", Section.VIDEO_GEN, "attention")
    specs = {keys: policy.default} | {(*keys, "rules", index): rule.spec for index, rule in enumerate(policy.rules)}
    for exporter, _ in config.save.targets():
        for place, spec in specs.items():
            if spec is not None and (problem := exporter.attention_problem(spec)) is not None:
                yield Problem(place, f"{exporter.name} was asked for in `save`, and {problem}")


def _grid_problems(
    exporter: Exporter, specs: Sequence[tuple[KeyPath, LayerSpec]], left: frozenset[str]
) -> Iterator[Problem]:
    schemes = [exporter.scheme_of(spec) for _, spec in specs]
    first = next((scheme for scheme in schemes if scheme is not None), None)
    for (keys, spec), scheme in zip(specs, schemes, strict=True):
        for sentence in exporter.problems(spec, left):
            without = f"to run without this export: --set save.{exporter.name}=False"
            yield Problem(keys, f"{exporter.name} was asked for in `save`, and {sentence}; {without}")
        if scheme not in (None, first):
            yield Problem(keys, f"{exporter.name} was asked for in `save`, and it has one scheme for all layers; "
                                f"found {scheme} here and {first} above: give all layers one grid")  # fmt: skip


def _source_problem(config: Config, exporter: Exporter) -> str | None:
    path = config.model.path
    try:
        released = config.model.adapter().index(path).is_release
    except LlmcError:  # said already
        return None
    return exporter.source_problem(path, released)


def _name_problems(config: Config, exporter: Exporter) -> Iterator[Problem]:
    adapter = config.model.adapter()
    tables = [*adapter.renames, *([ORIGINAL] if adapter.knows_original() else [])]
    if exporter.names is not None and exporter.names not in tables:
        found = ", ".join(tables) or "none"
        text = f"{exporter.name} reads no network of {config.model.type}"
        if exporter.names == ORIGINAL:
            text = f"{exporter.name} needs the names of {config.model.type} in its own repository, which are not known"
        yield Problem(("save", exporter.name), f"{text} (tables of names: {found}); leave this target out")


def arithmetic_problems(config: Config) -> Iterator[Problem]:
    """Whether the device could multiply the codes that real_quant is to judge."""
    if config.eval is None or "real_quant" not in config.eval.eval_pos:
        return
    for section, quant in config.quant.sections().items():
        for keys, spec in _specs(section, quant):
            if problem := spec.real_problem():
                yield Problem(keys, f"real_quant was asked for in `eval.eval_pos`, and {problem}")


def rounding_problems(config: Config) -> Iterator[Problem]:
    """Whether QPyTorch, where it is to round, could build itself."""
    for section, quant in config.quant.sections().items():
        for keys, spec in _specs(section, quant):
            grids = [grid for grid in (spec.weight, spec.act) if grid is not None]
            try:
                if any(grid.rounding == "qtorch" for grid in grids):
                    need_build_tools()
            except UnsupportedSpec as error:
                yield Problem(keys, str(error))


def _specs(section: str, quant: NetworkConfig) -> list[tuple[KeyPath, LayerSpec]]:
    """Every grid that a section gives to layers, and where it does."""
    rules: list[tuple[KeyPath, LayerSpec]] = [
        (("quant", section, "rules", index), quant.rule_spec(rule)) for index, rule in enumerate(quant.rules)
    ]
    return [(("quant", section), quant.default_spec()), *rules]
