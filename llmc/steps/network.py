"""A part of a pipeline made ready for quantization: linears of its blocks swapped, blocks and groups at hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch.nn.functional import linear

from llmc.algorithms.base import Algorithm
from llmc.calib.block import BlockStep, Group, block_steps
from llmc.calib.teacher import relative_error
from llmc.errors import UnsupportedSpec
from llmc.export.base import Carrier, Exporter
from llmc.export.folding import carrier
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
    layers = swap_linears(part.blocks, names, lambda name: with_exact_scales(policy.spec_of(name), exporters))
    network = Network(part, layers, block_steps(part), matched)
    for group in network.groups:
        group.may_scale = is_carried(
            carrier([module for _, module in group.fold]), [layer.spec for layer in group.linears], exporters
        )
    return network


def is_carried(by: Carrier, specs: Iterable[LayerSpec], exporters: Sequence[Exporter]) -> bool:
    """Whether every target can keep a Scale of the input of such layers."""
    return all(by in exporter.carries(spec) for spec in specs for exporter in exporters)


def quantize_block(block: BlockStep, recipe: Sequence[Algorithm]) -> None:
    """All methods of the recipe in order; what none of them rounded is rounded to nearest."""
    for method in recipe:
        method.apply(block)
    for group in block.groups:
        group.fix_act_scales()
    for layer in block.linears.values():
        if layer.state.rounded is None:
            layer.round()


def with_exact_scales(spec: LayerSpec, exporters: Sequence[Exporter]) -> LayerSpec:
    """The spec with weight scales exact in what the targets keep of them."""
    if spec.weight is None:
        return spec
    narrow = {exporter.scale_dtype for exporter in exporters} - {"float32"}
    if len(narrow) > 1:
        raise UnsupportedSpec(
            f"the targets keep scales in {' and '.join(sorted(narrow))}; none is exact in both: export one at a time"
        )
    dtype = narrow.pop() if narrow else "float32"
    return LayerSpec(weight=spec.weight.model_copy(update={"scale_dtype": dtype}), act=spec.act)


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
