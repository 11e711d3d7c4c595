"""What can be known to fail of the layers of a model, told from its configuration: no weights are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import torch
from torch import nn

from llmc.engine.network import Order, OriginalOf, check_names, fused_by, layer_names, linears_of
from llmc.errors import UnsupportedSpec
from llmc.export.base import Exporter
from llmc.models.base import ModelAdapter
from llmc.models.parts import Part
from llmc.numerics.quantize import sliced
from llmc.policy.rules import Policy
from llmc.section import Section

SHOWN = 3  # problems in one message


def check_layers(
    adapter: ModelAdapter, parts: Sequence[Part], orders: Mapping[Section, Order], exporters: Sequence[Exporter]
) -> None:
    """Refuse rules that match nothing, and linears that a grid, a method or a target cannot take; skeletons will do."""
    check_names(parts, orders)
    networks, order = [part for part in parts if part.is_denoiser], orders[Section.VIDEO_GEN]
    policy, _ = order
    check_tiles(networks, policy, exporters)
    check_fused(networks, order, exporters, adapter.original)
    check_rotations(networks, policy, exporters)
    for exporter, part in product(exporters, networks):
        linears = {name: (policy.spec_of(name, part.name), layer) for name, layer in _linears(part)}
        if problems := exporter.layer_problems(linears, adapter.renames, adapter.original(part.module)):
            more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
            raise UnsupportedSpec(
                f"{exporter.name} was asked for in `save`, and of the layers of {part.name}\n"
                + "\n".join(f"  {problem}" for problem in problems[:SHOWN])
                + more
            )
    for part in parts:  # last, since a target says more of what it takes
        check_widths(part, orders[part.section])


def check_widths(part: Part, order: Order) -> None:
    """Refuse a linear whose inputs a grid cannot share out among its groups, or a method among its blocks."""
    policy, recipe = order
    for name, layer in _linears(part):
        spec = policy.spec_of(name, part.name)
        for grid in (spec.weight, spec.act):
            if grid is not None:
                try:
                    sliced(torch.empty(1, layer.in_features, device="meta"), grid)
                except UnsupportedSpec as error:
                    raise UnsupportedSpec(f"{name}: {error}") from error
        for method in recipe:
            if (problem := method.width_problem(layer.in_features)) is not None:
                raise UnsupportedSpec(f"{name}: {problem}")


def check_tiles(parts: Sequence[Part], policy: Policy, exporters: Sequence[Exporter]) -> None:
    """Refuse, all at once, linears whose sizes a target's kernels cannot take."""
    for exporter in exporters:
        wrong = []
        for part in parts:
            for name, layer in _linears(part):
                each_in, each_out = exporter.multiples(policy.spec_of(name, part.name))
                if layer.in_features % each_in or layer.out_features % each_out:
                    found = f"{name} has {layer.in_features} inputs and {layer.out_features} outputs"
                    wrong.append(f"{found}, which must be multiples of {each_in} and {each_out}")
        if wrong:
            more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
            raise UnsupportedSpec(
                f"kernels of {exporter.name} work in whole tiles, and {'; '.join(wrong[:SHOWN])}{more}.\n"
                "  What to do: choose another grid for all layers, or a `runtime` with smaller tiles."
            )


def check_rotations(parts: Sequence[Part], policy: Policy, exporters: Sequence[Exporter]) -> None:
    """Refuse layers that read one input which some kernels always rotate, and others cannot; skeletons will do."""
    for part in parts:
        for block_name, block in part.blocks:
            for group in part.groups(block):
                names = [f"{block_name}.{linear}" for linear in group.linears]
                specs = [policy.spec_of(name, part.name) for name in names]
                asked = {exporter.rotation(spec) for exporter, spec in product(exporters, specs)}
                if {"must", "never"} <= asked:
                    found = ", ".join(f"{name} is {spec}" for name, spec in zip(names, specs, strict=True))
                    raise UnsupportedSpec(
                        f"{', '.join(names)} read one input, which kernels of some of these grids always rotate, and "
                        f"those of others cannot: {found}.\n  What to do: write rules that match all of them, or none."
                    )


def check_fused(parts: Sequence[Part], order: Order, exporters: Sequence[Exporter], original: OriginalOf) -> None:
    """Refuse layers that are one in a target, and that it could not store as one; skeletons will do."""
    policy, recipe = order
    own_scales = [method.name for method in recipe if method.own_scales]
    for part in parts:
        for target, names in fused_by(exporters, original(part.module), layer_names(part)).items():
            specs = [policy.spec_of(name, part.name) for name in names]
            if len(set(specs)) > 1:
                found = ", ".join(f"{name} is {spec}" for name, spec in zip(names, specs, strict=True))
                raise UnsupportedSpec(
                    f"{', '.join(names)} are one layer in the original network, {target}, and can only be stored as "
                    f"one if all have one grid; found: {found}.\n"
                    "  What to do: write rules that match all of them, or none."
                )
            weight = specs[0].weight
            if own_scales and weight is not None and weight.one_scale_for_all:
                raise UnsupportedSpec(
                    f"{', '.join(names)} are one layer in the original network, {target}, whose weight has one scale "
                    f"({weight}); {own_scales[0]} chooses one for each of them by itself.\n"
                    "  What to do: round to nearest, with SmoothQuant alone or RTN with range absmax; or choose a grid "
                    "with a scale for each output channel, such as int8 per_channel."
                )


def _linears(part: Part) -> Iterator[tuple[str, nn.Linear]]:
    names = linears_of(part)
    for block, module in part.blocks:
        for name in names[block]:
            layer = module.get_submodule(name)
            assert isinstance(layer, nn.Linear), f"{block}.{name} is a {type(layer).__name__}"
            yield f"{block}.{name}", layer
