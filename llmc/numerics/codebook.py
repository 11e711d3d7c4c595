"""Levels of a codebook on the grid of int8: what some kernels decode 4-bit codes to before they multiply.

A row has a scale, and each group of it a step: code c stands for the integer round(level[c] * step), and what is
multiplied are these integers. So they, and not the products with the step, are what a weight is rounded to.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

TOP = 127.0  # of int8
SMALLEST, LARGEST = 2.0**-9, 448.0  # of the steps, in e4m3
WIDEST = 2.0**126  # of a row: an infinity saturates there
REFINED = 2  # times that the steps are fitted to the codes, and the codes to the steps: more gains next to nothing
TINY = 1e-8
SAMPLED = 1 << 18  # values of a weight tell its best levels
ROUNDS, LLOYD = 2, 10  # of fitting steps to levels and levels to steps; and of the latter each time


def decoded(levels: Tensor, steps: Tensor) -> Tensor:
    """The integers (..., levels) that codes of groups with these steps (...) stand for, in float32."""
    return (levels * steps[..., None]).clamp_(-TOP, TOP).round_()


def nearest(x: Tensor, levels: Tensor, steps: Tensor) -> Tensor:
    """Of values in units of their rows' scales the nearest integer that their group has."""
    table, codes = _nearest(x, decoded(levels, steps), steps)
    return table.gather(-1, codes).reshape(x.shape)


def codes_of(integers: Tensor, levels: Tensor, steps: Tensor) -> Tensor:
    """The codes of integers that their groups have, as uint8."""
    _, codes = _nearest(integers, decoded(levels, steps), steps)
    return codes.reshape(integers.shape).to(torch.uint8)


def _nearest(x: Tensor, table: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    groups = x.clamp(-2 * TOP, 2 * TOP).reshape(*steps.shape, -1)  # (..., groups, values); no infinity
    return table, (groups[..., None] - table[..., None, :]).abs_().argmin(-1)


def fitting_grid(rows: Tensor, levels: Tensor, size: int, share: float = 1.0) -> tuple[Tensor, Tensor]:
    """Scales (rows, 1) and steps (rows, groups), exact in e4m3, with a small squared error; `share`: of the steps that
    alone would have the least."""
    rows = rows.float().clamp(-WIDEST, WIDEST)
    top = rows.abs().amax(1, keepdim=True)
    known = torch.where(top > 0, top, 1.0)
    groups = (rows / known).reshape(len(rows), -1, size)
    steps = groups.abs().amax(-1, keepdim=True).clamp_(min=TINY)
    values = _levels_of(groups / steps, levels)
    for _ in range(REFINED):
        steps = (groups * values).sum(-1, keepdim=True) / values.square().sum(-1, keepdim=True).clamp_(min=TINY)
        steps.clamp_(min=TINY)
        values = _levels_of(groups / steps, levels)
    steps *= share
    scale = (values * steps).abs().amax((1, 2), keepdim=True) / TOP
    exact = (steps / scale).squeeze(-1).clamp_(SMALLEST, LARGEST).to(torch.float8_e4m3fn).float()
    silent = top == 0
    return (scale[..., 0] * known).masked_fill_(silent, 1.0), exact.masked_fill_(silent, SMALLEST)


def _levels_of(values: Tensor, levels: Tensor) -> Tensor:
    """The nearest levels themselves."""
    return levels[torch.bucketize(values, (levels[1:] + levels[:-1]) / 2)]


def fitted_levels(weights: Sequence[Tensor], energy: Tensor, levels: Tensor, size: int) -> Tensor:
    """Levels of least squared output error for weights (out, in) that read inputs of some energy (in,) each: those of
    Lloyd and Max, to whom a value counts as much as its step and its input make of it."""
    for _ in range(ROUNDS):
        found = [_in_steps(weight, energy, levels, size) for weight in weights]
        values, counts = (torch.cat(each) for each in zip(*found, strict=True))
        for _ in range(LLOYD):
            nearest_of = torch.bucketize(values, (levels[1:] + levels[:-1]) / 2)
            total = torch.zeros_like(levels).index_add_(0, nearest_of, counts)
            mean = torch.zeros_like(levels).index_add_(0, nearest_of, counts * values) / total.clamp(min=TINY)
            levels = torch.where(total > 0, mean, levels).sort().values
    return levels


def _in_steps(weight: Tensor, energy: Tensor, levels: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Some values of a weight in units of their steps, and how much each counts."""
    some = weight[:: -(-weight.numel() // SAMPLED)]
    scale, steps = fitting_grid(some, levels, size)
    unit = (scale * steps).repeat_interleave(size, 1)
    counts = energy / energy.mean().clamp(min=TINY) * (unit / unit.mean()).square()
    return (some / unit).flatten(), counts.flatten()
