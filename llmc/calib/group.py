"""Linears that read one tensor: what was measured of it, in their present basis, and changes of that basis."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from llmc.calib.held_out import APART
from llmc.calib.observers import Gram, channel_absmax
from llmc.calib.probe import ROWS, Probe, spread
from llmc.layers.linear import QuantLinear
from llmc.layers.transforms import ModulatedRows, ProducerRows, Rotate, Rotation, Scale, Transform
from llmc.memory import give_back
from llmc.numerics.quantize import at_once
from llmc.numerics.spec import ScaleDtype

Stats = dict[str, Tensor]  # observer name -> what it measured
Place = str | ModulatedRows | ProducerRows  # of who absorbs: a module by its full name, or some of its rows
CHOSEN_BY, JUDGED_BY = slice(0, None, 2), slice(1, None, 2)  # rows: a change is not judged by those that chose it


@dataclass
class Group:
    """Linears that read one tensor, and who could absorb a scale of it."""

    name: str  # its part's name and the full name of the first linear: two experts have the same blocks
    names: tuple[str, ...]
    linears: tuple[QuantLinear, ...]
    fold: tuple[tuple[Place, nn.Module], ...]
    stats: Stats = field(default_factory=dict)
    sums: dict[str, Gram] = field(default_factory=dict)  # of products of inputs, by such names
    may_scale: bool = True  # whether every target can carry a scale of this input
    rotation: Rotation = "may"  # whether targets can rotate it online, or always do
    multiplier_dtype: ScaleDtype | None = None  # where a target multiplies at run time: what it keeps multipliers in
    head_width: int | None = None  # of the attention whose output is read; None if it is no such output

    @property
    def device(self) -> torch.device:
        return self.linears[0].device

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
            found = channel_absmax(layer.weight.detach()).float()  # as stored: scaling keeps the order within a channel
            for transform in state.transforms:
                found = transform.weight(found)
            return found.abs()
        return channel_absmax(layer.float_weight())

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
        """x^T x of the inputs, or (float x)^T x, in the present basis. It is for the caller to change; who is the last
        to need it does not `keep` it, since nothing else is as large."""
        moment = self.moment(name, keep)
        return moment.add_(self.moment(name + APART, keep)) if name + APART in self.sums else moment

    def moment(self, name: str, keep: bool = True) -> Tensor:
        """A sum of products of inputs, by the name that it was measured under, in the present basis: a transform acts
        on both sides. Where some calls are kept apart it is of the others alone, or of those."""
        moment = self.sums[name].result(keep)
        if not keep:
            del self.sums[name]
            give_back()
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
        """The least and the largest value (2,) of each step that was seen."""
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
        gone = {*self.stats, *self.sums} - {"range"} if names is None else set(names)
        self.stats = {name: value for name, value in self.stats.items() if name not in gone}
        if self.sums.keys() & gone:
            self.sums = {name: value for name, value in self.sums.items() if name not in gone}
            give_back()

    def transform(self, transform: Transform) -> Transform:
        """Change the basis of the shared input, and tell the change that was made: a Scale may have to be rounded.
        Linears before it that can absorb the change do so at once, a norm can absorb a Scale; what nobody absorbs
        happens at run time."""
        made = transform
        if self._may_fold(transform):
            producers = [(place, module) for place, module in self.fold if isinstance(module, QuantLinear)]
            for place, producer in producers:
                if isinstance(place, ProducerRows) and isinstance(transform, Scale):
                    producer.transform_output(place.folded(transform, producer.out_features))
                else:
                    producer.transform_output(transform)
            if producers:
                transform = replace(transform, upstream=True)  # type: ignore[type-var]
            elif isinstance(transform, Scale):
                place, module = self.fold[0]
                assert not isinstance(place, ProducerRows)
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
