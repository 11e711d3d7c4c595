"""Slice a tensor so that each slice shares one scale, and round every slice to its grid; all in float32."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from llmc.errors import UnsupportedSpec
from llmc.numerics.spec import TensorSpec


@dataclass(frozen=True)
class Quantized:
    """A rounded tensor: packed codes and scales, one slice a row; value = (code - zero) * scale."""

    codes: Tensor  # (slices, slice size), as stored
    scale: Tensor  # (slices, 1) float32
    zero: Tensor | None  # (slices, 1) float32, only on an asymmetric grid
    spec: TensorSpec
    shape: tuple[int, ...]

    def values(self) -> Tensor:
        """The codes as float32 values before the scale, (slices, slice size)."""
        codes = self.spec.format.unpack(self.codes)
        return codes if self.zero is None else codes - self.zero

    def dequantize(self) -> Tensor:
        """The tensor that a runtime computes with, in float32."""
        return unsliced(self.values() * self.scale, self.spec, self.shape)

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


def sliced(x: Tensor, spec: TensorSpec) -> Tensor:
    """`x` as (slices, slice size); blocks that stick out are padded with zeros."""
    match spec.granularity:
        case "per_tensor":
            return x.reshape(1, -1)
        case "per_channel" | "per_token":
            return x.reshape(-1, x.shape[-1])
    size = spec.group_size or 0
    if spec.granularity == "per_group":
        if x.shape[-1] % size:
            raise UnsupportedSpec(
                f"per_group {size} does not divide the {x.shape[-1]} inputs of a layer; choose a group_size that does, "
                "or leave that layer out with a rule"
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


def scales(slices: Tensor, spec: TensorSpec) -> tuple[Tensor, Tensor | None]:
    """The scale of each slice, and its zero point on an asymmetric grid: the whole range of the slice fits the grid."""
    fmt = spec.format
    if spec.symmetric:
        return exact_scale(slices.abs().amax(-1, keepdim=True) / fmt.max, spec), None
    low, high = slices.amin(-1, keepdim=True).clamp(max=0), slices.amax(-1, keepdim=True).clamp(min=0)
    scale = exact_scale((high - low) / (2**fmt.bits - 1), spec)
    return scale, (-fmt.max - 1 - low / scale).round()


def exact_scale(scale: Tensor, spec: TensorSpec) -> Tensor:
    """Scales exact in the type that the target stores; an empty slice gets 1, so that no division is by zero."""
    dtype: torch.dtype = getattr(torch, spec.scale_dtype)
    scale = scale.to(dtype).to(torch.float32)
    return torch.where(scale >= torch.finfo(dtype).tiny, scale, torch.ones_like(scale))


def round_to_grid(slices: Tensor, scale: Tensor, zero: Tensor | None, spec: TensorSpec) -> Tensor:
    """The codes of (slices, slice size) values, unpacked."""
    if zero is not None:
        return spec.format.round(slices / scale + zero, spec.rounding)
    return spec.format.round(slices / scale, spec.rounding).clamp(min=-spec.format.max)


def quantize(x: Tensor, spec: TensorSpec, scale: Tensor | None = None, zero: Tensor | None = None) -> Quantized:
    """Round `x`; without a scale, the one that just fits each slice."""
    slices = sliced(x.float(), spec)
    if scale is None:
        scale, zero = scales(slices, spec)
    codes = spec.format.pack(round_to_grid(slices, scale, zero, spec))
    return Quantized(codes, scale, zero, spec, tuple(x.shape))


def fake_quantize(
    x: Tensor, spec: TensorSpec | None, scale: Tensor | None = None, zero: Tensor | None = None
) -> Tensor:
    """What a runtime computes with in place of `x`, in float32: `quantize(...).dequantize()` without packing."""
    if spec is None:
        return x.float()
    slices = sliced(x.float(), spec)
    if scale is None:
        scale, zero = scales(slices, spec)
    codes = round_to_grid(slices, scale, zero, spec)
    return unsliced((codes if zero is None else codes - zero) * scale, spec, tuple(x.shape))
