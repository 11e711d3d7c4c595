"""One block in its turn: its layers, its groups of layers that read one tensor, and what was measured of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.hooks import RemovableHandle

from llmc.calib.observers import OBSERVERS
from llmc.layers.linear import QuantLinear
from llmc.layers.transforms import Scale, Transform
from llmc.models.base import Part
from llmc.numerics.quantize import fake_quantize

Stats = dict[str, Tensor]  # observer name -> what it measured


@dataclass
class Group:
    """Linears that read one tensor, and who could absorb a scale of it."""

    name: str  # full name of the first linear
    names: tuple[str, ...]
    linears: tuple[QuantLinear, ...]
    fold: tuple[tuple[str, nn.Module], ...]
    stats: Stats = field(default_factory=dict)
    may_scale: bool = True  # whether every target can carry a scale of this input

    @property
    def device(self) -> torch.device:
        return self.linears[0].weight.device

    def absmax(self) -> Tensor:
        """The largest magnitude of each input channel over the calibration, in the present basis."""
        if all(isinstance(transform, Scale) for transform in self.linears[0].state.transforms):
            return self._in_basis(self.stats["absmax"].to(self.device)).abs()
        return self.rows().abs().amax(0)

    def rows(self) -> Tensor:
        """The sampled input rows in the present basis, float32."""
        return self._in_basis(self.stats["rows"].to(self.device, torch.float32))

    def mean(self) -> Tensor:
        """The mean magnitude of each input channel, in the present basis."""
        if all(isinstance(transform, Scale) for transform in self.linears[0].state.transforms):
            return self._in_basis(self.stats["mean"].to(self.device)).abs()
        return self.rows().abs().mean(0)

    def second_moment(self, name: Literal["gram", "cross"]) -> Tensor:
        """x^T x of the inputs, or (float x)^T x, in the present basis: a transform acts on both sides."""
        half = self._in_basis(self.stats[name].to(self.device))
        return self._in_basis(half.T.contiguous()).T.contiguous()

    def fix_act_scales(self) -> None:
        """Static activation scales in the present basis, from every call of the calibration."""
        if "range" not in self.stats:
            return
        if all(isinstance(transform, Scale) for transform in self.linears[0].state.transforms):
            low, high = self._in_basis(self.stats["range"].to(self.device))
        else:  # a rotation mixes channels: their ranges say nothing any more, the sampled rows do
            rows = self.rows()
            low, high = rows.amin(0), rows.amax(0)
        for layer in self.linears:
            layer.fix_act_scale(low, high)

    def transform(self, transform: Transform) -> None:
        """Change the basis of the shared input; a Scale that linears before can absorb goes into their rows at once."""
        if isinstance(transform, Scale) and self.fold:
            producers = [module for _, module in self.fold if isinstance(module, QuantLinear)]
            for producer in producers:
                producer.multiply_output(transform.multiplier)
            transform = Scale(
                transform.multiplier, fold=None if producers else self.fold[0][0], upstream=bool(producers)
            )
        for layer in self.linears:
            layer.transform(transform)

    def error_with(self, transform: Transform | None, rows: Tensor) -> float:
        """Squared output error on `rows` (in the present basis) of plain rounding after `transform`: each linear's,
        relative to its float output, summed."""
        x = rows if transform is None else transform.input(rows)
        total = 0.0
        for layer in self.linears:
            weight = layer.float_weight()
            target = linear(rows, weight)
            changed = weight if transform is None else transform.weight(weight)
            output = linear(fake_quantize(x, layer.spec.act), fake_quantize(changed, layer.spec.weight))
            total += ((output - target).square().sum() / target.square().sum().clamp(min=1e-30)).item()
        return total

    def _in_basis(self, x: Tensor) -> Tensor:
        for transform in self.linears[0].state.transforms:  # upstream ones too: it was measured on the float model
            x = transform.input(x)
        return x


@dataclass
class BlockStep:
    """One block of a part while a recipe works on it."""

    name: str
    module: nn.Module
    groups: list[Group]
    rejected: Counter[str] = field(default_factory=Counter)  # method -> groups where its transform did not pay

    @cached_property
    def linears(self) -> dict[str, QuantLinear]:
        return {name: layer for group in self.groups for name, layer in zip(group.names, group.linears, strict=True)}

    def transform_if_better(self, group: Group, transform: Transform, rows: Tensor, method: str) -> bool:
        """Accept a change of basis only where it lowers the group's output error on `rows`; count it where not."""
        if group.error_with(transform, rows) < group.error_with(None, rows):
            group.transform(transform)
            return True
        self.rejected[method] += 1
        return False


def block_steps(part: Part) -> list[BlockStep]:
    """The blocks of a part whose linears were swapped."""
    return [BlockStep(name, block, _groups(part, name, block)) for name, block in part.blocks]


def _groups(part: Part, prefix: str, block: nn.Module) -> list[Group]:
    groups = []
    for group in part.groups(block):
        linears = tuple(block.get_submodule(name) for name in group.linears)
        assert all(isinstance(layer, QuantLinear) for layer in linears), f"swap the linears of {prefix} first"
        names = tuple(f"{prefix}.{name}" for name in group.linears)
        fold = tuple((f"{prefix}.{name}", block.get_submodule(name)) for name in group.fold)
        groups.append(Group(names[0], names, linears, fold))  # type: ignore[arg-type]
    return groups


class Observation:
    """Observers on the inputs of groups: use it as a context while calls run, or `update` it with what they read."""

    def __init__(self, groups: Sequence[Group], needs: frozenset[str], calls: int, max_rows: int) -> None:
        self.groups = groups
        self.observers = {
            group.name: {need: OBSERVERS[need](calls, max_rows) for need in sorted(needs)} for group in groups
        }

    def __enter__(self) -> Observation:
        def see(name: str, x: Tensor) -> None:
            self.update({name: x}, {name: x})

        self._hooks = _hook_inputs(self.groups, see)
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def update(self, inputs: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> None:
        """What groups read in one call, and what they would have read in the float model."""
        for name, x in inputs.items():
            for observer in self.observers[name].values():
                observer.update(x, reference[name])

    def attach(self) -> None:
        """Combine over the ranks, and give each group what was measured of its input."""
        for group in self.groups:
            for observer in self.observers[group.name].values():
                observer.reduce()
            group.stats = {need: observer.result() for need, observer in self.observers[group.name].items()}


@contextmanager
def inputs_of(groups: Sequence[Group]) -> Iterator[dict[str, Tensor]]:
    """What each group reads while the body runs."""
    inputs: dict[str, Tensor] = {}
    hooks = _hook_inputs(groups, inputs.__setitem__)
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()


def _hook_inputs(groups: Sequence[Group], see: Callable[[str, Tensor], None]) -> list[RemovableHandle]:
    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, args: see(name, args[0].detach())

    return [group.linears[0].register_forward_pre_hook(hook(group.name)) for group in groups]
