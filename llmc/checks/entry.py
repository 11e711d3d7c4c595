"""The one entry: everything that `llmc check` and a run refuse before hours are spent."""

from __future__ import annotations

from collections.abc import Iterator

from llmc.algorithms.base import Algorithm
from llmc.checks.configuration import check_config
from llmc.config.schema import Config
from llmc.errors import ExportError
from llmc.export.base import Exporter
from llmc.models.parts import Part
from llmc.policy.rules import Policy

COMMON_TILE = 16  # sizes of layers are nearly always a multiple: no need to import a model's library to see


def check(config: Config, look_at_layers: bool = False) -> list[Part]:
    """Refuse what could not succeed. Returns skeletons of the parts where layers were looked at: a model's library is
    only imported where something depends on their names or sizes, or where that is asked for."""
    check_config(config)
    named = [*config.model.networks(), *config.model.lora]  # what is in their files is soon read
    if not (look_at_layers or named or depends_on_layers(config)):
        return []
    return check_network(config, with_files=True)


def check_network(config: Config, with_files: bool = False) -> list[Part]:
    """Refuse what only the layers and attentions of the model tell; returns the skeletons of its parts. Networks from
    elsewhere and LoRAs are held against them where it is not about to load them."""
    from llmc.checks.attentions import check_attentions
    from llmc.checks.layers import check_layers
    from llmc.engine.loading import orders_of
    from llmc.engine.source import check_files, skeleton

    targets, orders = targets_of(config), orders_of(config)
    parts = skeleton(config.model, orders.keys())
    if with_files:
        check_files(config.model, parts)
    check_layers(config.model.adapter(), parts, orders, targets)
    check_attentions(parts, config.attention_policy(), targets)
    check_schedule(config, targets)
    return parts


def check_schedule(config: Config, targets: list[Exporter]) -> None:
    """Refuse a target that could not be started as the videos are judged."""
    from llmc.engine.loading import judged_sampling

    sampling = judged_sampling(config)
    for target in targets:
        if (problem := target.schedule_problem(sampling)) is not None:
            raise ExportError(f"{target.name} was asked for in `save`, and {problem}")


def targets_of(config: Config) -> list[Exporter]:
    """The targets that a run writes."""
    return [exporter for exporter, _ in config.save.targets()]


def depends_on_layers(config: Config) -> bool:
    """Whether names or sizes of layers, which only a model's library tells, decide if the configuration can work."""
    policies = [config.policy(section) for section in config.quant.sections()]
    if any(policy.rules or policy.ignored_blocks or policy.ignored_layers for policy in policies):
        return True
    if any(any(COMMON_TILE % size for size in group_sizes(policy)) for policy in policies):
        return True
    if any(method.width_problem(COMMON_TILE) for method in methods_of(config)):
        return True
    spec = policies[0].default
    return any(target.looks_at_layers() or max(target.multiples(spec)) > COMMON_TILE for target in targets_of(config))


def group_sizes(policy: Policy) -> list[int]:
    """Of how many inputs the grids of most layers make a group."""
    grids = [grid for grid in (policy.default.weight, policy.default.act) if grid is not None]
    return [grid.group_size or 1 for grid in grids if grid.granularity == "per_group"]


def methods_of(config: Config) -> Iterator[Algorithm]:
    """Every method of every section."""
    for section in config.quant.sections():
        yield from config.recipe(section)
