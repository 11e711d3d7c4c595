"""Queries, keys and values on their grids: each head by itself, never one head's values with another's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from llmc.numerics.attention_spec import AttentionSpec, Role
from llmc.numerics.quantize import exact_scale, fake_quantize

QUERY_ROWS, KEY_ROWS = 128, 256  # tokens of a block, as MindIE's fp8 kernel has them


def head_scales(absmax: Tensor, role: Role, spec: AttentionSpec) -> Tensor:
    """The calibrated scale of each head, (heads,), with which its grid reaches `absmax`."""
    grid = spec.grid(role).model_copy(update={"scale_dtype": spec.scale_dtype})
    return exact_scale(grid.format.scale(absmax.float()), grid)


def quantize_heads(x: Tensor, role: Role, spec: AttentionSpec, scale: Tensor | None = None) -> Tensor:
    """What a kernel computes with in place of x (batch, heads, tokens, width), in the type of x.

    `scale` (heads,) is a calibrated one. Groups lie along what is summed over: the width of queries and keys, the
    tokens of values.
    """
    grid, (batch, heads, tokens, width) = spec.grid(role, scale is not None), x.shape
    if grid.group_size is not None:
        along = x.transpose(-1, -2) if role == "v" else x
        last = along.shape[-1]
        rounded = fake_quantize(pad(along, (0, -last % grid.group_size)), grid, dtype=x.dtype)[..., :last]
        return rounded.transpose(-1, -2) if role == "v" else rounded
    block = tokens if spec.granularity == "per_head" else (QUERY_ROWS if role == "q" else KEY_ROWS)
    rows = pad(x, (0, 0, 0, -tokens % block)).reshape(batch, heads, -1, block * width)
    given = None if scale is None else scale.reshape(1, heads, 1, 1).expand(batch, heads, 1, 1).reshape(-1, 1)
    rounded = fake_quantize(rows, grid, given, dtype=x.dtype)
    return rounded.reshape(batch, heads, -1, width)[:, :, :tokens]


def visible(mask: Tensor, like: Tensor) -> Tensor:
    """Which keys (batch, tokens) any query may see under a mask of scaled_dot_product_attention."""
    # masks that are added hold large negative numbers, not always infinity: e^-1000 is 0 in float32
    allowed = mask if mask.dtype == torch.bool else mask > -1000
    seen = allowed.reshape((1,) * (4 - allowed.ndim) + allowed.shape).any(dim=(1, 2))
    return seen.expand(like.shape[0], like.shape[2])
