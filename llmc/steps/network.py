"""A part of a pipeline made ready for quantization: linears of its blocks swapped, blocks and groups at hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import nn

from llmc.algorithms.base import Algorithm
from llmc.calib.block import BlockStep, Group, LayerError, block_steps
from llmc.calib.layer_errors import layer_errors
from llmc.errors import UnsupportedSpec
from llmc.export.base import Carrier, Exporter, as_computed
from llmc.export.folding import carrier
from llmc.layers.linear import LayerState, QuantLinear
from llmc.layers.swap import swap_linears
from llmc.models.base import Part
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

    @property
    def errors(self) -> dict[str, LayerError]:
        """How far each layer is from float, where rows were kept to tell."""
        return {name: error for block in self.blocks for name, error in block.errors.items()}


def prepare(part: Part, policy: Policy, exporters: Sequence[Exporter]) -> Network:
    """Swap the linears of a part; an input is scaled only where every exporter can carry the scale."""
    names = {name: [linear for group in part.groups(block) for linear in group.linears] for name, block in part.blocks}
    matched = policy.check(f"{block}.{linear}" for block, linears in names.items() for linear in linears)
    layers = swap_linears(part.blocks, names, lambda name: as_computed(policy.spec_of(name), exporters))
    network = Network(part, layers, block_steps(part), matched)
    for group in network.groups:
        group.may_scale = is_carried(
            carrier([module for _, module in group.fold]), [layer.spec for layer in group.linears], exporters
        )
    return network


def is_carried(by: Carrier, specs: Iterable[LayerSpec], exporters: Sequence[Exporter]) -> bool:
    """Whether every target can keep a Scale of the input of such layers."""
    return all(by in exporter.carries(spec) for spec in specs for exporter in exporters)


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
    """All methods of the recipe in order; what none of them rounded is rounded to nearest. Changes of basis look at
    the whole block (one linear may absorb another's scale), rounding at what earlier linears give when rounded."""
    first = next((i for i, method in enumerate(recipe) if "rounded" in method.leaves), len(recipe))
    for method in recipe[:first]:
        method.apply(block)
    for stage in block.in_turn():
        for method in recipe[first:]:
            method.apply(stage)
        for group in stage.groups:
            group.fix_act_scales()
        for layer in stage.linears.values():
            if layer.state.rounded is None:
                layer.round()
    block.errors = layer_errors(block)
    for group in block.groups:
        group.forget()


@contextmanager
def rounded_to_nearest(network: Network) -> Iterator[None]:
    """For a while, plain rounding at the same bits in place of what the recipe decided."""
    states = {name: layer.state for name, layer in network.layers.items()}
    errors = [block.errors for block in network.blocks]
    for layer in network.layers.values():
        layer.state = LayerState()
    for block in network.blocks:
        quantize_block(block, ())
    try:
        yield
    finally:
        for name, layer in network.layers.items():
            layer.state = states[name]
        for block, found in zip(network.blocks, errors, strict=True):
            block.errors = found
