"""Slice a tensor so that each slice shares one scale, and round every slice to its grid; all in float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from llmc.errors import UnsupportedSpec
from llmc.numerics.float_round import power_of_two
from llmc.numerics.spec import TensorSpec

LARGEST = 2.0**127  # what a scale reaches: an infinity saturates there, and the largest code times it stays finite
CACHED, HELD = 1 << 19, 1 << 22  # values worked on at a time: a few of those fit the cache of a CPU, or of a device
SMALLEST_WHOLE = 2.0**-100  # so that the smallest scale under it is no subnormal number

# fixed before the values are seen, as `quantize` takes it: the scale (1, 1) of a tensor, and its zero point on an
# asymmetric grid; in a format of two levels neither, but the scale () of the whole tensor
StaticGrid = tuple[Tensor, Tensor | None] | tuple[None, None, Tensor]


@dataclass(frozen=True)
class Quantized:
    """A rounded tensor: packed codes and scales, one slice a row; value = (code - zero) * scale.

    In a format of two levels `scale` is the product of both, the slice's own and that of the `whole` tensor. In one
    with steps `zero` holds those, (slices, groups): they say which codes a group has, and change no value.
    """

    codes: Tensor  # (slices, slice size), as stored
    scale: Tensor  # (slices, 1) float32
    zero: Tensor | None  # (slices, 1) float32, only on an asymmetric grid
    spec: TensorSpec
    shape: tuple[int, ...]
    whole: Tensor | None = None  # float32, only in a format of two levels: () or, for each slice, (slices, 1)

    def __post_init__(self) -> None:
        if (self.whole is None) != (self.spec.format.whole_max is None):
            raise RuntimeError(f"whole={self.whole} with {self.spec.format.name}: pass on what whole_scale(...) gave")

    def values(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The codes as values before the scale, (slices, slice size); those of every format are exact in bf16."""
        codes = self.spec.format.unpack(self.codes, dtype)
        return codes if self.zero is None else counted_from(codes, self.zero.to(dtype), self.spec)

    def dequantize(self) -> Tensor:
        """The tensor that a runtime computes with, in float32."""

        def restored(codes: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
            values = self.spec.format.unpack(codes)
            return counted_from(values, zero, self.spec) * scale

        return unsliced(made_in_parts(restored, self.codes, self.scale, self.zero), self.spec, self.shape)

    def of_rows(self, rows: slice) -> Quantized:
        """Some rows of a matrix; all, unless each slice lies within one row."""
        if self.spec.granularity not in ("per_channel", "per_token", "per_group"):
            return self

        def some(values: Tensor) -> Tensor:
            return values.reshape(self.shape[0], -1)[rows].reshape(-1, values.shape[1])

        zero = None if self.zero is None else some(self.zero)
        shape = (len(range(self.shape[0])[rows]), *self.shape[1:])
        return replace(self, codes=some(self.codes), scale=some(self.scale), zero=zero, shape=shape)

    def stored(self) -> Tensor:
        """The packed codes in the shape of the tensor."""
        return unsliced(self.codes, self.spec, self.shape)

    def scale_grid(self) -> Tensor:
        """The scales as a matrix over the tensor: (rows, 1), (rows, groups), (row blocks, column blocks) or (1, 1)."""
        if self.spec.granularity == "per_tensor":
            return self.scale
        rows = math.prod(self.shape[:-1])
        if self.spec.granularity == "per_block":
            assert self.spec.group_size is not None
            rows = math.ceil(rows / self.spec.group_size)
        return self.scale.reshape(rows, -1)

    def stored_scales(self) -> Tensor:
        """`scale_grid` in the type that its format keeps scales in; `whole` is left to be stored beside it."""
        grid = self.scale_grid()
        if self.whole is not None:
            grid = grid / (self.whole if self.whole.ndim == 0 else self.whole.reshape(grid.shape))
        dtype: torch.dtype = getattr(torch, self.spec.format.scale_dtype or self.spec.scale_dtype)
        return grid.to(dtype)


def joined(parts: Sequence[Quantized]) -> Quantized:
    """One matrix of the rows of several, the slices of each within its rows."""
    first = parts[0]
    if len(parts) == 1:
        return first
    zero = None if first.zero is None else torch.cat([part.zero for part in parts if part.zero is not None])
    codes, scale = torch.cat([part.codes for part in parts]), torch.cat([part.scale for part in parts])
    shape = (sum(part.shape[0] for part in parts), *first.shape[1:])
    return replace(first, codes=codes, scale=scale, zero=zero, shape=shape)


def at_once(rows: int, width: int, device: torch.device) -> int:
    """How many of so many rows to work on at a time: arithmetic needs several times their room."""
    return equal_parts(rows, width, CACHED if device.type == "cpu" else HELD)


def equal_parts(rows: int, width: int, values: int) -> int:
    """How many of so many rows to take at a time, in equal parts of about so many values."""
    return -(-rows // max(1, round(rows * width / values)))


def made_in_parts(make: Callable[..., Tensor], slices: Tensor, *beside: Tensor | None) -> Tensor:
    """What is made of slices, and of values `beside` that each slice, or all of them, have; some slices at a time."""
    count = at_once(slices.shape[0], slices.shape[1], slices.device)
    if count >= len(slices):
        return make(slices, *beside)
    made: Tensor | None = None
    for first in range(0, len(slices), count):
        part = slice(first, first + count)
        found = make(slices[part], *(each if each is None or len(each) == 1 else each[part] for each in beside))
        made = found.new_empty(slices.shape) if made is None else made
        made[part] = found
    assert made is not None
    return made


def sliced(x: Tensor, spec: TensorSpec) -> Tensor:
    """`x` as (slices, slice size); blocks that stick out are padded with zeros."""
    match spec.granularity:
        case "per_tensor":
            return x.reshape(1, -1)
        case "per_channel" | "per_token":
            if spec.format.steps_every is not None and x.shape[-1] % spec.format.steps_every:
                raise UnsupportedSpec(
                    f"{spec} has a step for every {spec.format.steps_every} neighbours, which do not divide the "
                    f"{x.shape[-1]} inputs of a layer; leave that layer out with a rule"
                )
            return x.reshape(-1, x.shape[-1])
    size = spec.group_size or 0
    if spec.granularity == "per_group":
        unit = size * (spec.format.whole_groups or 1)
        if x.shape[-1] % unit:
            under = "" if unit == size else f" under one scale for every {unit}"
            choose = "" if spec.format.group_size else "choose a group_size that does, or "
            raise UnsupportedSpec(
                f"{spec}{under} does not divide the {x.shape[-1]} inputs of a layer; "
                f"{choose}leave that layer out with a rule"
            )
        return x.reshape(-1, size)
    rows, columns = x.shape
    x = pad(x, (0, -columns % size, 0, -rows % size))
    return x.reshape(x.shape[0] // size, size, -1, size).transpose(1, 2).reshape(-1, size * size)


def unsliced(slices: Tensor, spec: TensorSpec, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `sliced`."""
    if spec.granularity != "per_block":
        return slices.reshape(shape)
    assert spec.group_size is not None
    size, (rows, columns) = spec.group_size, shape
    grid = slices.reshape(math.ceil(rows / size), math.ceil(columns / size), size, size)
    return grid.transpose(1, 2).reshape(grid.shape[0] * size, -1)[:rows, :columns].contiguous()


def scales(slices: Tensor, spec: TensorSpec, whole: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """The scale of each slice, and its zero point on an asymmetric grid: the whole range of the slice fits the grid.

    In a format of two levels each scale is exact under `whole`; left out, the slices are taken for the whole tensor.
    """
    fmt = spec.format
    if fmt.steps_every is not None:
        return step_grid(slices, spec)
    low, high = slices.amin(-1, keepdim=True).float(), slices.amax(-1, keepdim=True).float()
    if spec.symmetric:
        if whole is None:
            whole = whole_scale(slices, spec)
        absmax = torch.maximum(high, -low).clamp_(max=LARGEST)
        scale = fmt.scale(absmax, whole) if spec.divisor == "largest_code" else absmax / (fmt.max + 0.5)
        return exact_scale(scale, spec), None
    if spec.offset_dtype is not None:
        return _offset_grid(low, high, spec)
    low, high = low.clamp_(-LARGEST / 2, 0), high.clamp_(0, LARGEST / 2)
    scale = exact_scale((high - low) / (2**fmt.bits - 1), spec)
    # a scale that was rounded down can push the zero point past the codes, and some runtimes store it as one
    return scale, (-fmt.max - 1 - low / scale).round().clamp_(-fmt.max - 1, fmt.max)


def _offset_grid(low: Tensor, high: Tensor, spec: TensorSpec) -> tuple[Tensor, Tensor]:
    """Scale and zero point of a range that need not hold zero: the value of the middle code is exact in some type, so
    that the zero point lies between codes."""
    fmt = spec.format
    low, high = low.clamp(-LARGEST / 2, LARGEST / 2), high.clamp(-LARGEST / 2, LARGEST / 2)
    scale = exact_scale((high - low) / (2**fmt.bits - 1), spec)
    middle = low + (fmt.max + 1) * scale
    return scale, -middle.to(getattr(torch, spec.offset_dtype or "float32")).float() / scale


def step_grid(rows: Tensor, spec: TensorSpec, share: float = 1.0) -> tuple[Tensor, Tensor]:
    """The grid of rows in a format with steps, so many times as large as those of least squared error."""
    scale, steps = spec.format.fitting_grid(rows, share)
    return exact_scale(scale, spec), steps


def whole_scale(slices: Tensor, spec: TensorSpec) -> Tensor | None:
    """The float32 scale () under which a format of two levels keeps its scales, or that of each slice (slices, 1);
    None for the others.

    Where the target keeps scales in 16 bits it is a power of two: so its reciprocal, which some store, is exact too.
    """
    if spec.format.whole_max is None:
        return None
    if (groups := spec.format.whole_groups) is None:
        absmax = torch.maximum(slices.amax(), -slices.amin()).float()
    else:
        each = torch.maximum(slices.amax(-1), -slices.amin(-1)).float().reshape(-1, groups).amax(-1)
        absmax = each.repeat_interleave(groups)[:, None]
    whole = absmax.clamp_(max=LARGEST) / spec.format.whole_max
    if spec.scale_dtype != "float32":
        fraction, exponent = torch.frexp(whole)
        whole = power_of_two(exponent - (fraction == 0.5).int())
    return torch.where(whole >= SMALLEST_WHOLE, whole, torch.ones_like(whole))


def static_grid(low: Tensor, high: Tensor, spec: TensorSpec) -> StaticGrid:
    """The grid that just fits a range, for all tensors of it."""
    ends = torch.stack([low, high]).reshape(1, 2)
    whole = whole_scale(ends, spec)
    return scales(ends, spec) if whole is None else (None, None, whole)


def exact_scale(scale: Tensor, spec: TensorSpec) -> Tensor:
    """Scales exact in the type that the target stores, at least its smallest normal number; an empty slice gets 1, so
    that no division is by zero."""
    if spec.format.scale_dtype is not None:  # the format's own rule gave exact ones
        return scale
    dtype: torch.dtype = getattr(torch, spec.scale_dtype)
    limits = torch.finfo(dtype)
    exact = scale.clamp(limits.tiny, limits.max).to(dtype).to(torch.float32)
    return torch.where(scale > 0, exact, 1.0)


def quotient(slices: Tensor, scale: Tensor, spec: TensorSpec) -> Tensor:
    """The values in units of their scales."""
    match spec.quotient:
        case "times_reciprocal":
            return slices * (1 / scale)
        case "divided_in_bf16":
            return (slices.bfloat16() / scale.bfloat16()).float()
        case "times_reciprocal_in_bf16":
            return (slices.bfloat16() * (1 / scale.bfloat16())).float()
    return slices / scale


def kept_scale(scale: Tensor, spec: TensorSpec) -> Tensor:
    """The scale that codes are multiplied by in the end."""
    dtype: torch.dtype = getattr(torch, spec.kept_scale_dtype)
    return scale.to(dtype).to(torch.float32)


def round_to_grid(slices: Tensor, scale: Tensor, zero: Tensor | None, spec: TensorSpec) -> Tensor:
    """The codes of (slices, slice size) values, unpacked."""
    if spec.format.steps_every is not None:
        return nearest_codes(slices / scale, zero, spec)
    return rounder(spec)(quotient(slices, scale, spec) if zero is None else (slices / scale).add_(zero))


def nearest_codes(positions: Tensor, zero: Tensor | None, spec: TensorSpec) -> Tensor:
    """The codes of values in units of their scales, counted from the zero point."""
    if zero is not None and spec.format.steps_every is not None:
        return spec.format.nearest(positions, zero)
    return rounder(spec)(positions)


def counted_from(codes: Tensor, zero: Tensor | None, spec: TensorSpec) -> Tensor:
    """Codes as values before the scale."""
    return codes if zero is None or spec.format.steps_every is not None else codes - zero


def rounder(spec: TensorSpec) -> Callable[[Tensor], Tensor]:
    """What makes codes, unpacked, of values in units of their scales, counted from the zero point; it may put them in
    the place of those."""
    mirrored = spec.symmetric and spec.mirrored and spec.divisor == "largest_code"
    return partial(spec.format.round_, rounding=spec.rounding, mirrored=mirrored)


def packed_codes(slices: Tensor, scale: Tensor, zero: Tensor | None, spec: TensorSpec) -> Tensor:
    """The codes as they are stored."""

    def packed(slices: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
        return spec.format.pack(round_to_grid(slices.float(), scale, zero, spec))

    return made_in_parts(packed, slices, scale, zero)


def quantize(
    x: Tensor, spec: TensorSpec, scale: Tensor | None = None, zero: Tensor | None = None, whole: Tensor | None = None
) -> Quantized:
    """Round `x`; without a scale, the one that just fits each slice.

    In a format of two levels `whole` alone fixes the upper one, and a scale is taken only together with its `whole`.
    """
    spec = spec.of_input(x.dtype)
    slices = sliced(x, spec)
    scale, zero, whole = _grid(slices, spec, scale, zero, whole)
    codes = packed_codes(slices, scale, zero, spec)
    return Quantized(codes, kept_scale(scale, spec), zero, spec, tuple(x.shape), whole)


def fake_quantize(
    x: Tensor,
    spec: TensorSpec | None,
    scale: Tensor | None = None,
    zero: Tensor | None = None,
    whole: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """What a runtime computes with in place of `x`: `quantize(...).dequantize()` without packing, in another type than
    float32 if one is asked for."""
    if spec is None:
        return x.to(dtype)
    spec = spec.of_input(x.dtype)
    slices = sliced(x, spec)
    scale, zero, _ = _grid(slices, spec, scale, zero, whole)

    def rounded(slices: Tensor, scale: Tensor, zero: Tensor | None, kept: Tensor) -> Tensor:
        codes = round_to_grid(slices.float(), scale, zero, spec)
        return counted_from(codes, zero, spec).mul_(kept).to(dtype)

    return unsliced(made_in_parts(rounded, slices, scale, zero, kept_scale(scale, spec)), spec, tuple(x.shape))


def common_grid(parts: Iterable[Tensor], spec: TensorSpec) -> StaticGrid | tuple[()]:
    """What all rows of a tensor share of a grid that is measured at run time, the rows being given some at a time;
    nothing where each has its own."""
    under_one = spec.format.whole_max is not None and spec.format.whole_groups is None
    if spec.granularity != "per_tensor" and not under_one:
        return ()
    ends = torch.stack([torch.stack(torch.aminmax(part)) for part in parts])
    return static_grid(ends[:, 0].amin().float(), ends[:, 1].amax().float(), spec.of_input(ends.dtype))


def _grid(
    slices: Tensor, spec: TensorSpec, scale: Tensor | None, zero: Tensor | None, whole: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Scale, zero point and scale of the whole tensor: those given, or those that just fit."""
    if scale is None:
        whole = whole_scale(slices, spec) if whole is None else whole
        return *scales(slices, spec, whole), whole
    if whole is None and spec.format.whole_max is not None:
        raise UnsupportedSpec(
            f"{spec.format.name} has scales of two levels, and a scale came without the tensor's own; give both, from "
            "`whole_scale` and `scales`, or none"
        )
    return scale, zero, whole
