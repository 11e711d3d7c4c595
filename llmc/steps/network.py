"""A part of a pipeline made ready for quantization: linears of its blocks swapped, blocks and groups at hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.functional import linear

from llmc.algorithms.base import Algorithm
from llmc.calib.block import BlockStep, Group, block_steps
from llmc.calib.teacher import relative_error
from llmc.errors import UnsupportedSpec
from llmc.export.base import Exporter
from llmc.layers.linear import LayerState, QuantLinear
from llmc.layers.swap import swap_linears
from llmc.models.base import Part
from llmc.numerics.quantize import fake_quantize, quantize
from llmc.numerics.spec import LayerSpec
from llmc.policy.rules import Policy


@dataclass
class Network:
    """One part under quantization."""

    part: Part
    layers: dict[str, QuantLinear]
    blocks: list[BlockStep]
    matched: Counter[str] = field(default_factory=Counter)  # rule -> layers

    @property
    def groups(self) -> list[Group]:
        return [group for block in self.blocks for group in block.groups]


def prepare(part: Part, policy: Policy, exporters: Sequence[Exporter]) -> Network:
    """Swap the linears of a part; an input is scaled only where every exporter can carry the scale."""
    names = {name: [linear for group in part.groups(block) for linear in group.linears] for name, block in part.blocks}
    matched = policy.check(f"{block}.{linear}" for block, linears in names.items() for linear in linears)
    layers = swap_linears(part.blocks, names, lambda name: as_computed(policy.spec_of(name), exporters))
    online = all(exporter.online_scale for exporter in exporters)
    return Network(part, layers, block_steps(part, lambda fold: online or bool(fold)), matched)


def check_shapes(parts: Sequence[Part], policy: Policy, exporters: Sequence[Exporter]) -> None:
    """Refuse, all at once, linears whose sizes a target's kernels cannot take; skeletons will do."""
    for exporter in exporters:
        wrong = []
        for name, layer in (pair for part in parts for pair in _linears(part)):
            each_in, each_out = exporter.multiples(policy.spec_of(name))
            if layer.in_features % each_in or layer.out_features % each_out:
                found = f"{name} has {layer.in_features} inputs and {layer.out_features} outputs"
                wrong.append(f"{found}, which must be multiples of {each_in} and {each_out}")
        if wrong:
            more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise UnsupportedSpec(
                f"kernels of {exporter.name} work in whole tiles, and {'; '.join(wrong[:3])}{more}.\n"
                "  What to do: choose another grid for all layers, or a `runtime` with smaller tiles."
            )


def _linears(part: Part) -> Iterator[tuple[str, nn.Linear]]:
    for block, module in part.blocks:
        for name in (name for group in part.groups(module) for name in group.linears):
            layer = module.get_submodule(name)
            assert isinstance(layer, nn.Linear), f"{block}.{name} is a {type(layer).__name__}"
            yield f"{block}.{name}", layer


def quantize_block(block: BlockStep, recipe: Sequence[Algorithm]) -> None:
    """All methods of the recipe in order; what none of them rounded is rounded to nearest."""
    for method in recipe:
        method.apply(block)
    for group in block.groups:
        group.fix_act_scales()
    for layer in block.linears.values():
        if layer.state.rounded is None:
            layer.round()


def as_computed(spec: LayerSpec, exporters: Sequence[Exporter]) -> LayerSpec:
    """The spec as the targets compute with it: scales exact in what they keep, activations rounded as their kernels do,
    so that what is judged is what will run."""
    found = {exporter.computed(spec): exporter.name for exporter in exporters}
    found.pop(spec, None)
    if len(found) > 1:
        raise UnsupportedSpec(
            f"{' and '.join(found.values())} compute {spec} in different ways, and the videos can only be judged in "
            "one: export one at a time"
        )
    return next(iter(found), spec)


@contextmanager
def rounded_to_nearest(network: Network) -> Iterator[None]:
    """For a while, plain rounding at the same bits in place of what the recipe decided."""
    states = {name: layer.state for name, layer in network.layers.items()}
    for layer in network.layers.values():
        layer.state = LayerState()
    for block in network.blocks:
        quantize_block(block, ())
    try:
        yield
    finally:
        for name, layer in network.layers.items():
            layer.state = states[name]


@dataclass(frozen=True)
class LayerError:
    """How far one layer's output is from float on the sampled rows: after the recipe, and with plain rounding."""

    recipe: float
    baseline: float
    weight: float

    def figures(self) -> dict[str, float]:
        """By the names of the layer table."""
        return {"error": self.recipe, "baseline_error": self.baseline, "weight_error": self.weight}


@torch.no_grad()
def layer_errors(network: Network, limit: int = 1024) -> dict[str, LayerError]:
    """Relative output error of every layer on rows kept by the observing pass; empty where none were kept."""
    errors = {}
    for group in network.groups:
        if "rows" not in group.stats:
            continue
        rows = group.stats["rows"][:: max(1, len(group.stats["rows"]) // limit)].to(group.device, torch.float32)
        for name, layer in zip(group.names, group.linears, strict=True):
            errors[name] = _layer_error(layer, rows)
    return errors


def _layer_error(layer: QuantLinear, rows: torch.Tensor) -> LayerError:
    weight, state = layer.weight.float(), layer.state
    wanted = linear(rows, weight)
    x = rows
    for transform in state.transforms:
        x = transform.input(x)
    rounded = layer.float_weight() if state.rounded is None else state.rounded.dequantize()
    output = linear(fake_quantize(x, layer.spec.act, *(state.static or ())), rounded)
    if state.lowrank is not None:
        output = output + linear(linear(x, state.lowrank[1]), state.lowrank[0])
    if state.out_multiplier is not None:
        output = output / state.out_multiplier
    nearest = weight if layer.spec.weight is None else quantize(weight, layer.spec.weight).dequantize()
    plain = linear(fake_quantize(rows, layer.spec.act), nearest)
    return LayerError(
        relative_error(output, wanted), relative_error(plain, wanted), relative_error(layer.restored_weight(), weight)
    )
