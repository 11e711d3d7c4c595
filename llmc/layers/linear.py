"""A linear that is being quantized: algorithms change its basis, split off a low-rank branch, and round its weight."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from llmc.layers.kernels import real_product
from llmc.layers.lent import Lent, borrowed
from llmc.layers.products import (
    Product,
    code_product,
    integer_sums,
    joined_rows,
    parts_of,
    value_product,
    with_branch_and_bias,
)
from llmc.layers.steps import StepGrids, running_step
from llmc.layers.transforms import Scale, Transform
from llmc.numerics.quantize import (
    Quantized,
    StaticGrid,
    at_once,
    common_grid,
    joined,
    quantize,
    scales,
    sliced,
    static_grid,
    whole_scale,
)
from llmc.numerics.spec import LayerSpec, TensorSpec

Mode = Literal["float", "transformed", "quantized", "real"]


@dataclass(frozen=True)
class LayerState:
    """All that a recipe decided about one layer; the float master weight is never touched."""

    transforms: tuple[Transform, ...] = ()
    out_transforms: tuple[Transform, ...] = ()  # of a later layer's input, folded into this one's rows
    lowrank: tuple[Tensor, Tensor] | None = None  # up (out, rank), down (rank, in), in the transformed basis
    static: StaticGrid | None = None  # calibrated, of the input
    steps: StepGrids | None = None  # the same for each denoising step; goes before `static`
    rounded: Quantized | None = None
    bias: Tensor | None = None  # learned, in place of the float one and what is folded into that


class QuantLinear(nn.Module):
    """In `float` mode the layer that it replaced, to the bit; in `quantized` mode what the runtime will compute, and in
    `real` mode that by the device's own int8 or fp8 product."""

    def __init__(self, layer: nn.Linear, spec: LayerSpec):
        super().__init__()
        self._parameters["weight"], self.bias = layer._parameters["weight"], layer.bias
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.spec = spec
        self.state = LayerState()
        self.mode: Mode = "float"
        self.peers: tuple[QuantLinear, ...] = ()  # what a target stores as one layer with it, itself among them

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "float":
            return linear(x, self.weight, self.bias)
        parts = parts_of(x.reshape(-1, self.in_features), self.out_features)
        outputs = self._outputs(parts)
        y = joined_rows(parts, self.out_features, lambda part: outputs(self.prepare(part)))
        return y.reshape(*x.shape[:-1], self.out_features)

    @property
    def weight(self) -> Tensor:
        """The float master weight; the values of one that is lent come now."""
        return borrowed(self.master)

    @property
    def dtype(self) -> torch.dtype:
        """Of the float layer."""
        return self.master.dtype

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.master.device

    @property
    def master(self) -> nn.Parameter:
        """The parameter itself, whether or not its values are there."""
        master = self._parameters["weight"]
        assert master is not None
        return master

    @property
    def takes_turns(self) -> bool:
        """Whether its weight is there only while its block works: then its codes, too, wait on the host."""
        return isinstance(self.master, Lent) and not self.master.stays

    @property
    def rounded(self) -> Quantized | None:
        """The rounded weight where the layer runs; codes that wait on the host are copied for who asks."""
        found = self.state.rounded
        return found and replace(found, codes=found.codes.to(self.device))

    @property
    def multiplies_int8(self) -> bool:
        """Whether its product is one of int8 codes."""
        return self.state.rounded is not None and self.spec.multiplies_int8

    @property
    def awaits_act_scale(self) -> bool:
        """Whether its input is to have a calibrated scale, and has none yet."""
        found = self.state.static is not None or self.state.steps is not None
        return self.spec.act is not None and not self.spec.act.dynamic and not found

    def act(self) -> tuple[TensorSpec | None, StaticGrid | tuple[()]]:
        """How the input is rounded now, in the step that runs: its spec, and the grid where that is calibrated."""
        spec, steps = self.spec.act, self.state.steps
        if spec is None or steps is None:
            return spec, self.state.static or ()
        if (step := running_step()) < steps.dynamic_below:
            return spec.measured_per_token(), ()
        return spec, steps.row(step)

    def prepare(self, x: Tensor) -> Tensor:
        """The input in the basis that the weight is rounded in, but for what an earlier layer multiplies already."""
        for transform in self.state.transforms:
            if not transform.upstream:
                x = transform.input(x)
        return x

    def float_weight(self, channels: slice = slice(None)) -> Tensor:
        """The float32 weight in its new basis, less the low-rank branch: what is rounded. Of some output channels."""
        first, last = (slice(None), channels) if self.mixes_outputs else (channels, slice(None))
        weight = self.weight[first].float()
        for transform in self._folded(first):
            weight = transform.input(weight.T).T
        weight = weight[last]
        for transform in self.state.transforms:
            weight = transform.weight(weight)
        return weight if self.state.lowrank is None else weight - self.lowrank_product(channels)

    def float_rows(self, channels: slice = slice(None)) -> FloatRows:
        """That weight, of which some rows are made at a time."""
        return FloatRows(self, channels)

    def float_bias(self) -> Tensor | None:
        """The bias, with what is folded into this layer's outputs."""
        bias: Tensor | None = self.bias
        if bias is not None and self.state.out_transforms:
            bias = bias.float()
            for transform in self.state.out_transforms:
                bias = transform.input(bias)
        return bias

    def final_bias(self) -> Tensor | None:
        """The bias that goes with the rounded weight: the learned one, if one was learned."""
        return self.float_bias() if self.state.bias is None else self.state.bias

    def restored_bias(self) -> Tensor | None:
        """The bias in the original basis: that of the float layer, if none was learned."""
        bias: Tensor | None = self.state.bias
        if bias is None:
            return self.bias
        for transform in reversed(self.state.out_transforms):
            bias = transform.undo(bias)
        return bias

    def restored_weight(self, channels: slice = slice(None)) -> Tensor:
        """The rounded weight in the original basis: what a stock float linear needs to compute the same. Some output
        channels can be had alone where nothing `mixes_outputs`."""
        return self.restored(self.rounded_weight(channels), channels)

    def rounded_weight(self, channels: slice = slice(None)) -> Tensor:
        """The float32 weight that inputs are multiplied by: the rounded one, once there is one."""
        rounded = self.rounded
        return self.float_weight(channels) if rounded is None else rounded.of_rows(channels).dequantize()

    def restored(self, weight: Tensor, channels: slice = slice(None)) -> Tensor:
        """`rounded_weight` and the low-rank branch in the original basis."""
        if self.state.lowrank is not None:
            weight = weight + self.lowrank_product(channels)
        for transform in reversed(self.state.transforms):
            weight = transform.restore(weight)
        return self.restored_output(weight.T, channels).T.contiguous()

    def restored_output(self, y: Tensor, channels: slice = slice(None)) -> Tensor:
        """What the layer gives, (..., out_features), or some channels of it, in the basis of the float model."""
        for transform in reversed(self._folded(channels)):
            y = transform.undo(y)
        return y

    @property
    def mixes_outputs(self) -> bool:
        """Whether a rotation is folded into its rows: then all of them are needed for any."""
        return not all(isinstance(transform, Scale) for transform in self.state.out_transforms)

    def _folded(self, channels: slice) -> list[Transform]:
        """What is folded into its rows, or into some of them."""
        return [t.of(channels) if isinstance(t, Scale) else t for t in self.state.out_transforms]

    def transform(self, transform: Transform) -> None:
        """Change the basis of the input."""
        self._must_not_be_rounded()
        self._must_not_be_static()
        state = self.state
        lowrank = state.lowrank and (state.lowrank[0], transform.weight(state.lowrank[1]))
        self.state = replace(state, transforms=(*state.transforms, transform), lowrank=lowrank)

    def take_back_transform(self) -> None:
        """Return to the basis before the last change of it."""
        self._must_not_be_rounded()
        *before, last = self.state.transforms
        lowrank = self.state.lowrank and (self.state.lowrank[0], last.restore(self.state.lowrank[1]))
        self.state = replace(self.state, transforms=tuple(before), lowrank=lowrank)

    def transform_output(self, transform: Transform) -> None:
        """Fold a change of basis of a later layer's input into this layer's rows and bias."""
        self._must_not_be_rounded()
        self.state = replace(self.state, out_transforms=(*self.state.out_transforms, transform))

    def split_lowrank(self, up: Tensor, down: Tensor) -> None:
        """Keep `up @ down` in high precision, and round only the rest."""
        self._must_not_be_rounded()
        self.add_lowrank(up, down)

    def add_lowrank(self, up: Tensor, down: Tensor) -> None:
        """Add a branch of high precision; after rounding it makes up for a part of the error."""
        if self.state.lowrank is not None:
            up, down = torch.cat([self.state.lowrank[0], up], 1), torch.cat([self.state.lowrank[1], down])
        self.state = replace(self.state, lowrank=(up, down))

    def lowrank_product(self, channels: slice = slice(None)) -> Tensor:
        """What the branch adds to the weight."""
        if self.state.lowrank is None:
            return torch.zeros(self.out_features, self.in_features, device=self.device)[channels]
        up, down = self.state.lowrank
        return up[channels].float() @ down.float()

    def round(self, rounded: Quantized | None = None) -> None:
        """Fix the codes: those given, or the nearest ones."""
        if self.spec.weight is not None:
            self.state = replace(self.state, rounded=self._nearest(self.spec.weight) if rounded is None else rounded)

    def fix_act_scale(self, low: Tensor, high: Tensor) -> None:
        """Give a static activation the scale that just fits a range."""
        assert self.spec.act is not None
        self.state = replace(self.state, static=static_grid(low, high, self.spec.act))

    def _nearest(self, spec: TensorSpec) -> Quantized:
        """Each value on the nearest point of its grid; some rows at a time, where none needs to know of others."""
        if self.mixes_outputs or not spec.rows_apart:
            return quantize(self.float_weight(), spec, self._common_scale(spec), whole=self._common_whole(spec))
        count = at_once(self.out_features, self.in_features, self.device)
        firsts = range(0, self.out_features, count)
        return joined([quantize(self.float_weight(slice(first, first + count)), spec) for first in firsts])

    def _common_scale(self, spec: TensorSpec) -> Tensor | None:
        """The largest scale that it and its peers need, where a whole weight has one; else each row has its own."""
        if not self.peers or spec.granularity != "per_tensor" or not spec.symmetric:
            return None
        return torch.stack([scales(sliced(peer.float_weight(), spec), spec)[0] for peer in self.peers]).amax(0)

    def _common_whole(self, spec: TensorSpec) -> Tensor | None:
        """In a format of two levels, the largest upper scale that it and its peers need."""
        if not self.peers or spec.granularity == "per_tensor" or not spec.one_scale_for_all:
            return None
        wholes = [whole_scale(peer.float_weight(), spec) for peer in self.peers]
        return torch.stack([whole for whole in wholes if whole is not None]).amax(0)

    def _must_not_be_rounded(self) -> None:
        if self.state.rounded is not None:
            raise RuntimeError(
                "a layer's basis cannot change after its weight is rounded: a rounding method comes last in a recipe"
            )

    def _must_not_be_static(self) -> None:
        if self.state.static is not None or self.state.steps is not None:
            raise RuntimeError(
                "a layer's basis cannot change after the scales of its input are fixed: put that method later"
            )

    def _outputs(self, parts: Sequence[Tensor]) -> Product:
        """What makes outputs of prepared rows; `parts` are all rows before that."""
        rounded, dtype, bias = self.rounded, parts[0].dtype, self.final_bias()
        product: Product
        if self.mode == "transformed" or (rounded is None and self.spec.act is None):
            product = partial(linear, weight=self.float_weight().to(dtype))
            return with_branch_and_bias(product, self.state.lowrank, self.float_bias())
        act, grid = self.act()
        if self.spec.sums is not None and rounded is not None and act is not None and grid:
            return integer_sums(rounded, act, grid, self.spec.sums, bias, self.mode == "real", dtype)
        if act is not None and not grid:
            grid = common_grid(map(self.prepare, parts), act)
        if rounded is None or act is None or not (act.one_scale_per_row and rounded.spec.one_scale_per_row):
            product = value_product(self.rounded_weight(), act, grid)
        elif self.mode == "real":
            product = partial(
                real_product, act=act, act_scale=grid[0] if grid else None, weight=rounded.stored(), scale=rounded.scale
            )
        else:
            product = code_product(rounded, act, grid, dtype)
        return with_branch_and_bias(product, self.state.lowrank, bias)


class FloatRows:
    """The float weight of some output channels of a layer, made row by row for who asks; where rows are mixed, once."""

    def __init__(self, layer: QuantLinear, channels: slice) -> None:
        self._layer, self._channels = layer, range(layer.out_features)[channels]
        self._whole = layer.float_weight(channels) if layer.mixes_outputs else None
        self.shape = len(self._channels), layer.in_features

    def __getitem__(self, rows: slice, /) -> Tensor:
        if self._whole is not None:
            return self._whole[rows]
        some = self._channels[rows]
        return self._layer.float_weight(slice(some.start, some.stop, some.step))


class Switched(Protocol):
    """What runs in one mode or another: a linear, an attention."""

    mode: Mode


@contextmanager
def in_mode(layers: Iterable[Switched], mode: Mode) -> Iterator[None]:
    """Run some layers in another mode for a while."""
    before = [(layer, layer.mode) for layer in layers]
    for layer, _ in before:
        layer.mode = mode
    try:
        yield
    finally:
        for layer, old in before:
            layer.mode = old
