"""What a quantized layer gives, some rows of its input at a time.

On the way from codes to outputs values are float32: twice the room of most models' own type, several times over. Rows
need nothing of one another but, on some grids, the range that they share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from llmc.layers.integer_sums import bias_in_units, sum_scale
from llmc.layers.kernels import multiplied_at_once, multiply
from llmc.numerics.quantize import Quantized, StaticGrid, fake_quantize, quantize
from llmc.numerics.spec import SumScale, TensorSpec

Grid = StaticGrid | tuple[()]  # () where each row has its own
Product = Callable[[Tensor], Tensor]  # of rows (tokens, in): outputs (tokens, out) in their type


def parts_of(rows: Tensor, outputs: int) -> Sequence[Tensor]:
    """The rows of a product, so many at a time that neither side is large."""
    count = multiplied_at_once(len(rows), max(rows.shape[1], outputs))
    return rows.split(max(1, count))  # type: ignore[no-untyped-call, no-any-return]


def joined_rows(parts: Sequence[Tensor], outputs: int, product: Product) -> Tensor:
    """What the product makes of all parts, one below the other."""
    if len(parts) == 1:
        return product(parts[0])
    y = parts[0].new_empty(sum(map(len, parts)), outputs)
    for part, place in zip(parts, y.split(len(parts[0])), strict=True):  # type: ignore[no-untyped-call]
        place.copy_(product(part))
    return y


def value_product(weight: Tensor, act: TensorSpec | None, grid: Grid) -> Product:
    """Of rounded values, in float32: for grids whose scales cannot be taken out of the sums."""
    return lambda x: linear(fake_quantize(x, act, *grid), weight).to(x.dtype)


def code_product(rounded: Quantized, act: TensorSpec, grid: Grid, dtype: torch.dtype) -> Product:
    """As a kernel does it: multiply codes (exact in bf16, 16 bits suffice), and scale the sums in float32."""
    dtype = _of_codes(dtype)
    weight, scale = rounded.values(dtype).reshape(rounded.shape), rounded.scale.reshape(-1)

    def product(x: Tensor) -> Tensor:
        codes = quantize(x, act, *grid)
        sums = linear(codes.values(dtype).reshape(x.shape), weight).float()
        return sums.mul_(codes.scale).mul_(scale).to(x.dtype)

    return product


def integer_sums(
    rounded: Quantized,
    act: TensorSpec,
    grid: StaticGrid,
    kept: SumScale,
    bias: Tensor | None,
    real: bool,
    dtype: torch.dtype,
) -> Product:
    """As a kernel that adds the bias to the sums of a static act, in their unit."""
    assert grid[0] is not None
    dtype, outputs = _of_codes(dtype), rounded.scale.reshape(-1)
    unit = sum_scale(grid[0], outputs, kept).reshape(-1)
    added = None if bias is None else bias_in_units(bias, unit).float()
    weight = rounded.stored() if real else rounded.values(dtype).reshape(rounded.shape)

    def product(x: Tensor) -> Tensor:
        codes = quantize(x, act, *grid)
        if real:
            sums = multiply(codes.stored(), weight)
        else:
            sums = linear(codes.values(dtype).reshape(x.shape), weight).float()
        if added is not None:
            sums.add_(added)
        return sums.mul_(unit).to(x.dtype)

    return product


def with_branch_and_bias(product: Product, branch: tuple[Tensor, Tensor] | None, bias: Tensor | None) -> Product:
    """A product, and what is added to it in high precision; in place, since nobody else has what a product gives."""

    def outputs(x: Tensor) -> Tensor:
        y = product(x)
        if branch is not None:
            up, down = branch
            y.add_(linear(linear(x, down.to(x.dtype)), up.to(x.dtype)))
        return y if bias is None else y.add_(bias.to(y.dtype))

    return outputs


def _of_codes(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype == torch.float32 else torch.bfloat16
