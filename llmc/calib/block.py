"""One block in its turn: its layers, its groups of layers that read one tensor, and what was measured of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from llmc.calib.observers import absmax
from llmc.calib.probe import ROWS, Probe, spread
from llmc.calib.shelf import put_away
from llmc.layers.linear import LayerState, QuantLinear
from llmc.layers.transforms import ModulatedRows, Rotate, Scale, Transform
from llmc.models.parts import Fold, Part
from llmc.numerics.quantize import at_once
from llmc.numerics.spec import ScaleDtype
from llmc.numerics.valley import argmin, least_in_valley

Stats = dict[str, Tensor]  # observer name -> what it measured
CHOSEN_BY, JUDGED_BY = slice(0, None, 2), slice(1, None, 2)  # rows: a change is not judged by those that chose it
HEADS = ("heads", "num_heads", "n_heads")  # as diffusers, CLIP and T5 call how many an attention has


@dataclass
class Group:
    """Linears that read one tensor, and who could absorb a scale of it."""

    name: str  # its part's name and the full name of the first linear: two experts have the same blocks
    names: tuple[str, ...]
    linears: tuple[QuantLinear, ...]
    fold: tuple[tuple[str | ModulatedRows, nn.Module], ...]
    stats: Stats = field(default_factory=dict)
    may_scale: bool = True  # whether every target can carry a scale of this input
    multiplier_dtype: ScaleDtype | None = None  # where a target multiplies at run time: what it keeps multipliers in
    head_width: int | None = None  # of the attention whose output is read; None if it is no such output

    @property
    def device(self) -> torch.device:
        return self.linears[0].weight.device

    def absmax(self) -> Tensor:
        """The largest magnitude of each input channel over the calibration, in the present basis."""
        if self._is_scaled_alone():
            return self._in_basis(self.stats["absmax"].to(self.device)).abs()
        return self.rows().abs().amax(0)

    def weight_absmax(self) -> Tensor:
        """The largest magnitude of each input channel over the weights of all linears, in the present basis."""
        return torch.stack([self._absmax_of(layer) for layer in self.linears]).amax(0)

    def _absmax_of(self, layer: QuantLinear) -> Tensor:
        state = layer.state
        if self._is_scaled_alone() and not state.out_transforms and state.lowrank is None:
            found = absmax(layer.weight.detach()).float()  # of what is stored: scaling keeps the order within a channel
            for transform in state.transforms:
                found = transform.weight(found)
            return found.abs()
        return absmax(layer.float_weight())

    def rows(self, some: slice = slice(None), count: int | None = None) -> Tensor:
        """Sampled input rows in the present basis, float32: all or some, or about so many of those, evenly spaced."""
        rows = self.stats["rows"][some]
        rows = rows if count is None else spread(rows, count)
        return self._in_basis(rows.to(self.device, torch.float32))

    def mean(self) -> Tensor:
        """The mean magnitude of each input channel, in the present basis."""
        if self._is_scaled_alone():
            return self._in_basis(self.stats["mean"].to(self.device)).abs()
        return self.rows().abs().mean(0)

    def second_moment(self, name: str, keep: bool = True) -> Tensor:
        """x^T x of the inputs, or (float x)^T x, in the present basis: a transform acts on both sides. It is for the
        caller to change; who is the last to need it does not `keep` it, since nothing else is as large."""
        moment = (self.stats[name].clone() if keep else self.stats.pop(name)).to(self.device)
        count = at_once(len(moment), len(moment), moment.device)
        for side in (moment, moment.T) if self.linears[0].state.transforms else ():
            for some in side.split(count):  # type: ignore[no-untyped-call]
                some.copy_(self._in_basis(some))
        return moment

    def range(self) -> tuple[Tensor, Tensor]:
        """The least and the largest value of the calibration, in the present basis."""
        if self._is_scaled_alone():
            low, high = self._in_basis(self.stats["range"].to(self.device))
            return low.min(), high.max()
        rows = self.rows()  # a rotation mixes channels: their ranges say nothing any more, the sampled rows do
        return rows.min(), rows.max()

    def step_ranges(self) -> dict[int, Tensor]:
        """The same (2,) for each step that was seen."""
        if self._is_scaled_alone():
            channels = self._in_basis(self.stats["step_range"].to(self.device))
            ranges = torch.stack([channels[:, 0].amin(1), channels[:, 1].amax(1)], 1)
            return {step: ends for step, ends in enumerate(ranges) if ends[0] <= ends[1]}
        rows, steps = self.rows(), self.stats["row_steps"][:, 0].to(self.device)
        seen = {step: rows[steps == step] for step in sorted(set(steps.int().tolist()))}
        return {step: torch.stack([found.min(), found.max()]) for step, found in seen.items()}

    def _is_scaled_alone(self) -> bool:
        """Whether channels are those that were measured, each times a number."""
        return all(isinstance(transform, Scale) for transform in self.linears[0].state.transforms)

    def forget(self, names: Iterable[str] | None = None) -> None:
        """Drop these statistics, or all that are large: a static scale can still be found."""
        gone = self.stats.keys() - {"range"} if names is None else names
        self.stats = {name: value for name, value in self.stats.items() if name not in gone}

    def transform(self, transform: Transform) -> Transform:
        """Change the basis of the shared input, and tell the change that was made: a Scale may have to be rounded.
        Linears before it that can absorb the change do so at once, a norm can absorb a Scale; what nobody absorbs
        happens at run time."""
        made = transform
        if self._may_fold(transform):
            producers = [module for _, module in self.fold if isinstance(module, QuantLinear)]
            for producer in producers:
                producer.transform_output(transform)
            if producers:
                transform = replace(transform, upstream=True)  # type: ignore[type-var]
            elif isinstance(transform, Scale):
                place, module = self.fold[0]
                made = transform = Scale(self._absorbed_exactly(transform.multiplier, place, module), fold=place)
        elif self.multiplier_dtype is not None and isinstance(transform, Scale):
            transform, made = self._all_in_one(transform, self.multiplier_dtype)
        for layer in self.linears:
            layer.transform(transform)
        return made

    def _all_in_one(self, scale: Scale, dtype: ScaleDtype) -> tuple[Scale, Scale]:
        """A Scale that the runtime multiplies by, exact in what it keeps; one before it is taken back, and goes in.
        Beside it the change that this makes. A channel that was silent in the calibration may speak later: its product
        must stay finite, which in float16 it does up to the root of the largest number."""
        whole, before = scale.multiplier, torch.ones_like(scale.multiplier)
        last = self.linears[0].state.transforms[-1:]
        if last and isinstance(last[0], Scale):
            before = last[0].multiplier
            whole = before * whole
            for layer in self.linears:
                layer.take_back_transform()
        kept = getattr(torch, dtype)
        smallest, largest = torch.finfo(kept).tiny, torch.finfo(kept).max ** 0.5
        whole = whole.clamp(smallest, largest).to(kept).float()
        return Scale(whole), Scale(whole / before)

    def _absorbed_exactly(self, multiplier: Tensor, place: str | ModulatedRows, norm: nn.Module) -> Tensor:
        """The nearest multiplier that leaves the weight of an affine norm exact in bf16: runtimes keep it in 16 bits,
        and would round it after all was judged."""
        weight = getattr(norm, "weight", None)
        if weight is None or weight.ndim != 1:
            return multiplier
        weight = weight.detach().float()
        for earlier in self.linears[0].state.transforms:
            if isinstance(earlier, Scale) and earlier.fold == place:
                weight = weight * earlier.multiplier
        kept = (weight * multiplier).to(torch.bfloat16).float()
        return torch.where(kept == 0, multiplier, kept / weight)

    def _may_fold(self, transform: Transform) -> bool:
        """Whether what stands before the linears could make the change, although others happen after it."""
        scale = isinstance(transform, Scale)
        later = [t for t in self.linears[0].state.transforms if not (t.upstream or (scale and isinstance(t, Scale)))]
        passes = scale or (isinstance(transform, Rotate) and transform.within_heads)
        return bool(self.fold) and passes and not later

    def probe(self, some: slice = CHOSEN_BY) -> Probe:
        """On the rows that a change may be chosen by; `keep_if_better` judges it by the others."""
        return Probe.of(self.linears, self.rows(some, ROWS))

    def original(self, x: Tensor) -> Tensor:
        """What arrives at the linears, in the basis of the float model: linears before may have changed it."""
        if self.linears[0].mode != "float":
            for transform in reversed(self.linears[0].state.transforms):
                x = transform.undo(x) if transform.upstream else x
        return x

    def _in_basis(self, x: Tensor) -> Tensor:
        for transform in self.linears[0].state.transforms:  # upstream ones too: it was measured on the float model
            x = transform.input(x)
        return x


@dataclass(frozen=True)
class LayerError:
    """Relative error of a layer's weight, and of its output after the recipe and with plain rounding."""

    weight: float
    recipe: float | None = None  # None where no input was observed
    baseline: float | None = None

    def figures(self) -> dict[str, float]:
        """Those that there are, by the names of the layer table."""
        figures = {"error": self.recipe, "baseline_error": self.baseline, "weight_error": self.weight}
        return {name: figure for name, figure in figures.items() if figure is not None}


@dataclass
class BlockStep:
    """One block of a part while a recipe works on it."""

    name: str
    module: nn.Module
    groups: list[Group]
    rejected: Counter[str] = field(default_factory=Counter)  # method -> groups where its transform did not pay
    steps: int = 0  # of the schedule that the calibration runs
    observe_again: Callable[[Sequence[Group]], None] | None = None  # on what the rounded linears before them give
    errors: dict[str, LayerError] = field(default_factory=dict)  # of each linear, once the recipe is done
    stages: Sequence[Sequence[Group]] = ()  # groups in running order; those of one stage need nothing of one another
    needed_later: frozenset[str] = frozenset()  # statistics that methods after the one at work read
    on_disk: bool = False  # whether its codes are read from there

    @cached_property
    def linears(self) -> dict[str, QuantLinear]:
        return {name: layer for group in self.groups for name, layer in zip(group.names, group.linears, strict=True)}

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    def put_away(self) -> None:
        """Nobody works on this block any more: its codes wait on disk until the network runs or is written."""
        for layer in [] if self.on_disk else self.linears.values():
            put_away(layer)
        self.on_disk = True

    def in_turn(self) -> Iterator[BlockStep]:
        """The groups in the order in which they run, each observed again once those before it are rounded; the whole
        block where nothing observes again."""
        if self.observe_again is None:
            yield self
            return
        for position, groups in enumerate(self.stages):
            if position:
                self.observe_again(groups)
            yield replace(self, groups=list(groups))

    def transform_if_better(
        self, group: Group, candidates: Sequence[Transform], method: str, gate: bool = True, in_order: bool = False
    ) -> bool:
        """Change the basis of a group by the best of some transforms, judged by the output error of plain rounding;
        with `gate` only if it is better than none on rows that the choice did not see, else it is counted as rejected.
        Of candidates `in_order`, along which the error falls and then rises, not all are tried."""
        probe = group.probe()
        find = least_in_valley if in_order else argmin
        best = find(candidates, probe.error) if len(candidates) > 1 else candidates[0]
        if not gate:
            group.transform(best)
            return True
        judged = probe.on(group.rows(JUDGED_BY, ROWS))
        error, before = judged.error(), self._states()
        made = group.transform(best)
        return self._kept(judged.error(made) < error, before, method)

    def keep_if_better(self, group: Group, change: Callable[[], None], method: str) -> bool:
        """Take back a change of the group's linears that does not lower their output error, and count it."""
        error, before = group.probe(JUDGED_BY).error(), self._states()
        change()
        return self._kept(group.probe(JUDGED_BY).error() < error, before, method)

    def _states(self) -> dict[QuantLinear, LayerState]:
        return {layer: layer.state for layer in self.linears.values()}

    def _kept(self, better: bool, before: dict[QuantLinear, LayerState], method: str) -> bool:
        if not better:
            for layer, state in before.items():
                layer.state = state
            self.rejected[method] += 1
        return better


def block_steps(part: Part) -> list[BlockStep]:
    """The blocks of a part whose linears were swapped."""
    return [BlockStep(name, block, _groups(part, name, block)) for name, block in part.blocks]


def _groups(part: Part, prefix: str, block: nn.Module) -> list[Group]:
    groups = []
    for group in part.groups(block):
        modules = tuple(block.get_submodule(name) for name in group.linears)
        linears = tuple(layer for layer in modules if isinstance(layer, QuantLinear))
        assert linears == modules, f"swap the linears of {prefix} first"
        names = tuple(f"{prefix}.{name}" for name in group.linears)
        fold = tuple(_absorber(prefix, block, fold) for fold in group.fold)
        width = linears[0].in_features // heads_of(block.get_submodule(group.attention)) if group.attention else None
        groups.append(Group(f"{part.name}.{names[0]}", names, linears, fold, head_width=width))
    return groups


def heads_of(attention: nn.Module) -> int:
    """How many heads an attention has."""
    return next(int(getattr(attention, name)) for name in HEADS if hasattr(attention, name))


def _absorber(prefix: str, block: nn.Module, fold: Fold) -> tuple[str | ModulatedRows, nn.Module]:
    if isinstance(fold, str):
        return f"{prefix}.{fold}", block.get_submodule(fold)
    linear = block.get_submodule(fold.linear)
    assert isinstance(linear, nn.Linear)
    width = linear.out_features // fold.chunks
    return ModulatedRows(f"{prefix}.{fold.linear}", fold.shift * width, fold.scale * width), linear
