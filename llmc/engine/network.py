"""A part of a pipeline made ready for quantization: linears of its blocks swapped, blocks and groups at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, product, takewhile

from torch import nn

from llmc.algorithms.base import Algorithm
from llmc.calib.act_scales import fix_act_scales
from llmc.calib.block import BlockStep, LayerError, block_steps
from llmc.calib.group import Group
from llmc.calib.layer_errors import layer_errors
from llmc.engine.attention import plainly_rounded, quantized_attentions
from llmc.layers.attention import QuantAttention
from llmc.layers.finite import check_tensors
from llmc.layers.linear import LayerState, QuantLinear, Switched
from llmc.layers.swap import swap_linears
from llmc.layers.target import Carrier, Target, as_computed, carrier_of
from llmc.layers.transforms import Rotation
from llmc.models.parts import Part
from llmc.numerics.spec import LayerSpec
from llmc.policy.attention import AttentionPolicy
from llmc.policy.rules import Policy
from llmc.renames import ORIGINAL, Original, fused_layers
from llmc.section import Section

Order = tuple[Policy, Sequence[Algorithm]]  # of one section of `quant`: each layer's grid, and the methods
OriginalOf = Callable[[nn.Module], Original]  # an adapter's table of a network


@dataclass
class Network:
    """One part under quantization."""

    part: Part
    layers: dict[str, QuantLinear]
    blocks: list[BlockStep]
    recipe: Sequence[Algorithm] = ()
    original: Original = ()  # names and rows in the repository that the network comes from, where they are known
    prefix: str = ""  # before the names of layers and blocks in tables: the part's name, if others have such names
    attentions: dict[str, QuantAttention] = field(default_factory=dict)
    attention_errors: dict[str, float] = field(default_factory=dict)  # of each, once it is calibrated
    finished: int = 0  # of its blocks, by a run that was cut off

    @property
    def switched(self) -> list[Switched]:
        """Everything that runs in one mode or another."""
        return [*self.layers.values(), *self.attentions.values()]

    @property
    def groups(self) -> list[Group]:
        return groups_of(self.blocks)

    @property
    def unfinished(self) -> list[BlockStep]:
        return self.blocks[self.finished :]

    @property
    def first_is_like_float(self) -> bool:
        """Whether all that is asked of the first block can be had from a run of the float model: only later ones read
        what quantized blocks give, and only the outputs of quantized blocks are passed on."""
        alone = self.sequential and not self.within_block and not self.learns
        return alone and self.part.is_denoiser

    @property
    def errors(self) -> dict[str, LayerError]:
        """How far each layer is from float, where rows were kept to tell."""
        found: dict[str, LayerError] = {}
        for block in self.blocks:
            found |= block.errors
        return found

    @property
    def needs(self) -> frozenset[str]:
        """The statistics of its inputs that its recipe and its grids ask for."""
        needs = frozenset[str]().union(*(method.needs for method in self.recipe))
        if any(is_static(layer) for layer in self.layers.values()):
            needs |= {"range"}
        return needs | {"rows"} if needs else needs  # each layer's error is told from the rows

    @property
    def early_needs(self) -> frozenset[str]:
        """Those that are asked for of a whole block, before any of its linears is rounded."""
        return frozenset[str]().union(*(method.needs for method in before_rounding(self.recipe)))

    @property
    def sequential(self) -> bool:
        """Whether a block is to be observed on what the quantized blocks before it give."""
        return any(method.sequential for method in self.recipe)

    @property
    def learns(self) -> bool:
        """Whether a method learns from what whole blocks give, so that float blocks run beside."""
        return any(method.on_whole_block for method in self.recipe)

    @property
    def within_block(self) -> bool:
        """Whether a linear is also to be observed on what the quantized linears before it in the block give."""
        return any(method.within_block for method in self.recipe)


def prepare_all(
    parts: Sequence[Part],
    orders: Mapping[Section, Order],
    targets: Sequence[Target],
    attention: AttentionPolicy | None = None,
    original: OriginalOf = lambda network: (),
) -> list[Network]:
    """Every part made ready as its section orders; a rule that matches no layer of the section's parts is refused."""
    check_names(parts, orders)
    alone = sum(part.is_denoiser for part in parts) == 1
    networks = []
    for part in parts:
        policy, recipe = orders[part.section]
        prefix = "" if alone and part.is_denoiser else f"{part.name}."
        table = original(part.module) if part.is_denoiser else ()
        networks.append(prepare(part, policy, targets, recipe, attention, table))
        networks[-1].prefix = prefix
    return networks


def check_names(parts: Sequence[Part], orders: Mapping[Section, Order]) -> None:
    """Refuse a rule that matches no layer of its section's parts."""
    for section, (policy, _) in orders.items():
        policy.check({part.name: layer_names(part) for part in parts if part.section == section})


def prepare(
    part: Part,
    policy: Policy,
    targets: Sequence[Target],
    recipe: Sequence[Algorithm] = (),
    attention: AttentionPolicy | None = None,
    original: Original = (),
) -> Network:
    """Swap the linears of a part, and take hold of its attentions; an input is scaled only where every target can
    carry the scale, and linears that one of them makes a single layer of know each other."""
    check_tensors(part.name, part.module)
    if not part.is_denoiser:
        targets = [target.for_encoders() for target in targets]

    def spec_of(name: str) -> LayerSpec:
        return as_computed(policy.spec_of(name, part.name), targets)

    layers = swap_linears(part.blocks, linears_of(part), spec_of)
    attentions = quantized_attentions(part, attention, targets)
    network = Network(part, layers, block_steps(part), recipe, original, attentions=attentions)
    dtypes = [target.multiplier_dtype for target in targets if target.multiplier_dtype is not None]
    for together in fused_by(targets, original, layers).values():
        for name in together:
            layers[name].peers = tuple(layers[other] for other in together)
    for group in network.groups:
        if dtypes:
            group.fold, group.multiplier_dtype = (), dtypes[0]
        specs = [layer.spec for layer in group.linears]
        group.may_scale = is_carried(carrier_of([module for _, module in group.fold]), specs, targets)
        group.rotation = rotation_of(specs, targets)
    return network


def groups_of(blocks: Iterable[BlockStep]) -> list[Group]:
    """The groups of all blocks."""
    return list(chain.from_iterable(block.groups for block in blocks))


def linears_of(part: Part) -> dict[str, list[str]]:
    """The linears of each block, by their names within it."""
    found = {}
    for name, block in part.blocks:
        found[name] = list(chain.from_iterable(group.linears for group in part.groups(block)))
    return found


def layer_names(part: Part) -> list[str]:
    """The names of all linears that are quantized, within the part."""
    found: list[str] = []
    for block, linears in linears_of(part).items():
        found += [f"{block}.{linear}" for linear in linears]
    return found


def is_static(layer: QuantLinear) -> bool:
    """Whether the layer's activation scale comes from calibration."""
    return layer.spec.act is not None and not layer.spec.act.dynamic


def is_carried(by: Carrier, specs: Iterable[LayerSpec], targets: Sequence[Target]) -> bool:
    """Whether every target can keep a Scale of the input of such layers."""
    return all(by in target.carries(spec) for spec, target in product(specs, targets))


def rotation_of(specs: Iterable[LayerSpec], targets: Sequence[Target]) -> Rotation:
    """Whether the input that such layers share can be rotated for every target, or always is."""
    asked = {target.rotation(spec) for spec, target in product(specs, targets)}
    return "never" if "never" in asked else "must" if "must" in asked else "may"


def fused_by(targets: Sequence[Target], table: Original, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Layers that targets make one of, by what it is called there."""
    return fused_layers(table, names) if any(target.names == ORIGINAL for target in targets) else {}


def quantize_block(block: BlockStep, recipe: Sequence[Algorithm]) -> None:
    """All methods of the recipe in order; what none of them rounded is rounded to nearest. Changes of basis look at
    the whole block (one linear may absorb another's scale), rounding at what earlier linears give when rounded."""
    before = before_rounding(recipe)
    rounding = [method for method in recipe[len(before) :] if not method.on_whole_block]
    block.on_disk = False
    for method in before:
        method.apply(block)
    for stage in block.in_turn():
        for position, method in enumerate(rounding, 1):
            stage.needed_later = frozenset[str]().union(*(later.needs for later in rounding[position:]))
            method.apply(stage)
        for group in stage.groups:
            fix_act_scales(group)
        for layer in stage.linears.values():
            if layer.state.rounded is None:
                layer.round()
    for method in recipe:
        if method.on_whole_block:
            method.apply(block)
    block.errors = layer_errors(block)
    for group in block.groups:
        group.forget()


def before_rounding(recipe: Sequence[Algorithm]) -> Sequence[Algorithm]:
    """The methods that only prepare a block."""
    return list(takewhile(lambda method: "rounded" not in method.leaves, recipe))


@contextmanager
def rounded_to_nearest(network: Network, blocks: Sequence[BlockStep] | None = None) -> Iterator[None]:
    """For a while, plain rounding at the same bits in place of what the recipe decided; in some blocks or in all."""
    whole, blocks = blocks is None, network.blocks if blocks is None else blocks
    layers = list(chain.from_iterable(block.linears.values() for block in blocks))
    states, errors = [layer.state for layer in layers], [block.errors for block in blocks]
    for layer in layers:
        layer.state = LayerState()
    for block in blocks:
        quantize_block(block, ())
        if whole:  # codes of all blocks are half a model
            block.put_away()
    try:
        with plainly_rounded(network.attentions):
            yield
    finally:
        for layer, state in zip(layers, states, strict=True):
            layer.state = state
        for block, found in zip(blocks, errors, strict=True):
            block.errors = found
