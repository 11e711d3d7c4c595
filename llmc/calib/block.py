"""One block in its turn: its groups of linears, what a recipe has made of them, and which changes it kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import nn

from llmc.calib.group import JUDGED_BY, Group, Place
from llmc.calib.held_out import Fit
from llmc.calib.probe import ROWS, output_error
from llmc.calib.rerun import Rerun
from llmc.calib.values_on_disk import put_away
from llmc.layers.linear import LayerState, QuantLinear
from llmc.layers.transforms import ModulatedRows, ProducerRows, Transform
from llmc.models.parts import Fold, Part, Rows, linear_of
from llmc.numerics.line_search import least_in_valley

WORTH = {1: 0.3, 2: 0.8, 3: 0.8, 4: 0.8}  # samples -> share of the error that a change may leave
HEADS = ("heads", "num_heads", "n_heads")  # as diffusers, CLIP and T5 call how many an attention has


@dataclass(frozen=True)
class LayerError:
    """Relative error of a layer's weight, and of its output after the recipe and with plain rounding."""

    weight: float
    recipe: float | None = None  # None where no input was observed
    baseline: float | None = None
    fit: Fit | None = None  # where a method judged its solution by calls kept apart

    def figures(self) -> dict[str, float]:
        """Those that there are, by the names of the layer table."""
        overfit = None if self.fit is None else self.fit.overfit
        figures = {
            "error": self.recipe, "baseline_error": self.baseline, "weight_error": self.weight, "overfit": overfit
        }  # fmt: skip
        return {name: figure for name, figure in figures.items() if figure is not None}


@dataclass
class BlockStep:
    """One block of a part while a recipe works on it."""

    name: str
    module: nn.Module
    groups: list[Group]
    rejected: Counter[str] = field(default_factory=Counter)  # method -> groups where its transform did not pay
    fits: dict[str, Fit] = field(default_factory=dict)  # of linears whose solution was judged by calls kept apart
    steps: int = 0  # of the schedule that the calibration runs
    samples: int = 0  # that it is calibrated on, where some of what is seen is kept apart
    sample_numbers: frozenset[int] = frozenset()  # of those, of all ranks
    observe_again: Callable[[Sequence[Group]], None] | None = None  # on what the rounded linears before them give
    errors: dict[str, LayerError] = field(default_factory=dict)  # of each linear, once the recipe is done
    stages: Sequence[Sequence[Group]] = ()  # groups in running order; those of one stage need nothing of one another
    needed_later: frozenset[str] = frozenset()  # statistics that methods after the one at work read
    rerun: Rerun | None = None  # its calls, for who learns from what the whole block gives
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
        find: Callable[..., Transform] = least_in_valley if in_order else min
        probe = group.probe() if gate or len(candidates) > 1 else None
        best = find(candidates, key=probe.error) if probe and len(candidates) > 1 else candidates[0]
        if probe is None or not gate:
            group.transform(best)
            return True
        judged = probe.on(group.rows(JUDGED_BY, ROWS))
        error, before = judged.error() + self._error_before(group), self._states()
        made = group.transform(best)
        return self._kept(judged.error(made) + self._error_before(group) < self._worth * error, before, method)

    def keep_if_better(self, group: Group, change: Callable[[], None], method: str) -> bool:
        """Take back a change of the group's linears that does not lower their output error, and count it."""
        error, before = group.probe(JUDGED_BY).error(), self._states()
        change()
        return self._kept(group.probe(JUDGED_BY).error() < self._worth * error, before, method)

    def _error_before(self, group: Group) -> float:
        """The error of plain rounding of the linears that absorb a change of the group's input: they are judged with
        it."""
        found = 0.0
        for other in self.groups:
            for layer in other.linears:
                if any(layer is module for _, module in group.fold):
                    found += output_error(layer, other.rows(JUDGED_BY, ROWS))
        return found

    @property
    def _worth(self) -> float:
        """What a change may leave of the error: with few samples, gains on others are smaller."""
        return WORTH.get(self.samples, 1.0)

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


def _absorber(prefix: str, block: nn.Module, fold: Fold) -> tuple[Place, nn.Module]:
    """Where a fold is, in the whole network."""
    module = block.get_submodule(linear_of(fold))
    if isinstance(fold, str):
        return f"{prefix}.{fold}", module
    assert isinstance(module, nn.Linear | QuantLinear)
    width, name = module.out_features // fold.chunks, f"{prefix}.{fold.linear}"
    if isinstance(fold, Rows):
        return ProducerRows(name, fold.number * width), module
    shift, scale = (tuple(number * width for number in numbers) for numbers in (fold.shift, fold.scale))
    return ModulatedRows(name, shift, scale), module
