"""Layers that are several in one naming scheme and one in the other: their tensors stacked by rows, or cut apart again.

Pure functions on headers, each the exact inverse of the other; values are made when they are written. A quantized layer
is its codes and its scales: what belongs to a row goes with the row, what belongs to the whole layer must be equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod
from typing import TypeAlias

import torch

from llmc.convert.safetensors_file import LazyTensor, make_rows, row_cuts
from llmc.errors import ExportError

Layer: TypeAlias = Mapping[str, LazyTensor]  # `weight`, `bias`, `weight_scale`, ... of one module

BY_ROW = ("weight", "bias", "weight_scale", "weight_zeros", "weight_s_rel", "weight_s_channel")
OF_THE_LAYER = (
    *("input_scale", "alpha", "input_global_scale", "weight_global_scale", "input_absmax"),
    *("pre_quant_scale", "weight_scale_2", "scale_weight", "scale_input", "comfy_quant", "weight_codebook"),
)
TILE = 128  # rows that scales of blocks, and swizzled ones, are laid out by


@dataclass(frozen=True)
class Rows:
    """Some rows of a tensor."""

    base: LazyTensor
    start: int
    stop: int

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.stop - self.start, *self.base.shape[1:])

    @property
    def bases(self) -> tuple[LazyTensor, ...]:
        return (self.base,)

    def make(self) -> torch.Tensor:
        return self.rows(0, self.stop - self.start)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return make_rows(self.base, self.start + start, self.start + stop)


@dataclass(frozen=True)
class Stacked:
    """Tensors below each other."""

    bases: tuple[LazyTensor, ...]

    @property
    def dtype(self) -> torch.dtype:
        return self.bases[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(base.shape[0] for base in self.bases), *self.bases[0].shape[1:])

    def make(self) -> torch.Tensor:
        return self.rows(0, self.shape[0])

    def rows(self, start: int, stop: int) -> torch.Tensor:
        whole = torch.empty((stop - start, *self.shape[1:]), dtype=self.dtype)
        ends = accumulate((base.shape[0] for base in self.bases), initial=0)
        for base, (first, end) in zip(self.bases, pairwise(ends), strict=True):
            low, high = max(start, first), min(stop, end)
            if low < high:
                whole[low - start : high - start] = make_rows(base, low - first, high - first)
        return whole


@dataclass(frozen=True)
class Shared:
    """One tensor that was found several times."""

    bases: tuple[LazyTensor, ...]

    @property
    def dtype(self) -> torch.dtype:
        return self.bases[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.bases[0].shape)

    def make(self) -> torch.Tensor:
        return self.bases[0].make()

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return make_rows(self.bases[0], start, stop)


def fuse(name: str, layers: Sequence[Layer], shares: Sequence[int]) -> dict[str, LazyTensor]:
    """The tensors of the one layer `name` that `layers` are, or the reason why they cannot be one."""
    for layer in layers:
        _check_whole(name, layer)
    _check_alike(name, layers)
    fused: dict[str, LazyTensor] = {}
    for leaf in layers[0]:
        parts = tuple(layer[leaf] for layer in layers)
        if _is_by_row(name, leaf, parts[0], layers[0]):
            if len({part.shape[1:] for part in parts}) > 1 or not all(part.shape for part in parts):
                found = ", ".join(str(list(part.shape)) for part in parts)
                raise ExportError(
                    f"{name}.{leaf} would be made of {found}; parts of one layer are equally wide: download or copy "
                    "the checkpoint again"
                )
            rows = [part.shape[0] for part in parts]
            if rows != _shared_out(name, leaf, sum(rows), shares):
                raise ExportError(
                    f"{name}.{leaf} would have parts of {rows} rows; their shares are {_ratio(shares)}; check that the "
                    "model type is right"
                )
            for part, layer in zip(parts, layers, strict=True):
                _check_aligned(name, leaf, part, layer["weight"].shape[0])
            fused[leaf] = Stacked(parts)
        else:
            fused[leaf] = shared(f"{name}.{leaf}", parts)
    return fused


def split(name: str, layer: Layer, shares: Sequence[int]) -> list[dict[str, LazyTensor]]:
    """The inverse of `fuse`: the tensors of each part of the layer `name`."""
    _check_whole(name, layer)
    parts: list[dict[str, LazyTensor]] = [{} for _ in shares]
    weight_rows = _shared_out(name, "weight", layer["weight"].shape[0], shares)
    for leaf, tensor in layer.items():
        if not _is_by_row(name, leaf, tensor, layer):
            for part in parts:
                part[leaf] = tensor
            continue
        ends = accumulate(_shared_out(name, leaf, tensor.shape[0], shares), initial=0)
        for part, (start, stop), rows in zip(parts, pairwise(ends), weight_rows, strict=True):
            part[leaf] = Rows(tensor, start, stop)
            _check_aligned(name, leaf, part[leaf], rows)
    return parts


def shared(name: str, tensors: tuple[LazyTensor, ...]) -> LazyTensor:
    """The one tensor that all of them must be."""
    if all(equal(tensors[0], other) for other in tensors[1:]):
        return Shared(tensors)
    values = ", ".join(str(tensor.make().tolist()) for tensor in tensors) if prod(tensors[0].shape) == 1 else "tensors"
    raise ExportError(
        f"{name} would be one of {values}, which differ; layers can only be fused if what belongs to the whole layer "
        "is equal; quantize them with one scale per output channel, or with a common scale"
    )


def bases_of(tensor: LazyTensor) -> tuple[LazyTensor, ...]:
    """What a tensor is made from; nothing, if it lies in a file."""
    bases: tuple[LazyTensor, ...] = getattr(tensor, "bases", ())
    return bases


def equal(left: LazyTensor, right: LazyTensor) -> bool:
    """Whether two tensors are the same to the bit; few of their rows are in memory at a time."""
    if (left.dtype, tuple(left.shape)) != (right.dtype, tuple(right.shape)):
        return False
    if not left.shape:
        return _bytes(left).equal(_bytes(right))
    return all(_bytes(Rows(left, *cut)).equal(_bytes(Rows(right, *cut))) for cut in row_cuts(left))


def _bytes(tensor: LazyTensor) -> torch.Tensor:
    return tensor.make().contiguous().flatten().view(torch.uint8)


def _check_whole(name: str, layer: Layer) -> None:
    if "weight" not in layer or not layer["weight"].shape:
        raise ExportError(
            f"{name} has {', '.join(layer)}, but no weight with rows, or a part of it has none; a layer is fused and "
            "cut by the rows of its weight; download or copy the checkpoint again"
        )


def _check_alike(name: str, layers: Sequence[Layer]) -> None:
    """The parts of a layer have the same tensors in the same types, or some of them are quantized and some are not."""
    kinds = [{leaf: tensor.dtype for leaf, tensor in layer.items()} for layer in layers]
    if any(kind != kinds[0] for kind in kinds):
        found = "; ".join(", ".join(f"{leaf} {str(d).removeprefix('torch.')}" for leaf, d in k.items()) for k in kinds)
        raise ExportError(
            f"the parts of {name} are not alike: {found}; layers can only be fused if all have the same tensors in the "
            "same types; quantize all of them alike, or none"
        )


def _is_by_row(name: str, leaf: str, tensor: LazyTensor, layer: Layer) -> bool:
    """Whether a tensor has something for each row of its layer, and not for the layer as a whole."""
    if leaf in OF_THE_LAYER:
        return False
    if leaf not in BY_ROW:
        known = ", ".join((*BY_ROW, *OF_THE_LAYER))
        raise ExportError(
            f"{name}.{leaf} is not known; of a layer that is fused in one naming scheme and not in the other, only "
            f"{known} can be converted; leave such tensors out"
        )
    if not tensor.shape and leaf != "weight_scale":
        raise ExportError(f"{name}.{leaf} is one number; a layer has it for each row: download the checkpoint again")
    return leaf != "weight_scale" or prod(tensor.shape) > 1 or (layer["weight"].shape[0] == 1 and bool(tensor.shape))


def _check_aligned(name: str, leaf: str, tensor: LazyTensor, weight_rows: int) -> None:
    """Scales of blocks, and swizzled ones (of one byte each), can be cut only between their tiles."""
    if leaf == "weight_scale" and (tensor.shape[0] != weight_rows or tensor.dtype.itemsize == 1) and weight_rows % TILE:
        raise ExportError(
            f"{name}.{leaf} holds scales of blocks, and a part of the layer has {weight_rows} rows; such scales can be "
            f"fused or cut at multiples of {TILE} rows only; quantize the layer with one scale per output channel"
        )


def _shared_out(name: str, leaf: str, rows: int, shares: Sequence[int]) -> list[int]:
    unit, rest = divmod(rows, sum(shares))
    if rest:
        raise ExportError(
            f"{name}.{leaf} has {rows} rows, which cannot be shared out {_ratio(shares)}; check the direction and the "
            "model type"
        )
    return [unit * share for share in shares]


def _ratio(shares: Sequence[int]) -> str:
    return ":".join(map(str, shares))
