"""Ranges smaller than the largest magnitude: a few values clipped, all others rounded more finely."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from llmc.numerics.quantize import (
    at_once,
    fake_quantize,
    round_to_grid,
    scales,
    sliced,
    static_grid,
    step_grid,
    whole_scale,
)
from llmc.numerics.spec import TensorSpec

SHRINKS = tuple(1 - step / 20 for step in range(11))  # 1.0 down to 0.5
IN_VAIN = 2  # ranges that were better for no slice, after which smaller ones are better for none: seen at 2 to 8 bits
TRIED = (1.0, 0.9, 0.8, 0.7, 0.6)  # where every range costs a whole solution
ACT_SHRINKS = tuple(1 - step / 40 for step in range(39))  # a few tokens can reach far beyond all others
STEP_SHARES = (1.0, 0.92, 1.08)  # of the steps of least squared error, where each costs a whole solution
ENOUGH = 512  # elements of a slice at most, evenly spaced, tell its best range as well as all of them
ROWS = 128  # tokens that tell an output error
AT_ONCE = 1 << 22  # values of acts held at a time

RangeRule = Literal["absmax", "mse", "percentile"]
Grid = tuple[Tensor, Tensor | None]  # scale and zero point of each slice


def weight_scales(slices: Tensor, spec: TensorSpec, by: RangeRule, percentile: float = 100.0) -> Grid:
    """Scale (and zero point) of each slice by the rule of that name; a format with steps has one of its own."""
    if spec.format.steps_every is not None:
        return scales(slices, spec)
    if by == "mse":
        return least_squares_scales(slices, spec)
    if by == "percentile":
        return percentile_scales(slices, spec, percentile)
    return scales(slices, spec, whole_scale(slices, spec))


def least_squares_scales(slices: Tensor, spec: TensorSpec) -> Grid:
    """Scale (and zero point) of each slice with the least squared rounding error over a grid of ranges."""
    whole = whole_scale(slices, spec)
    some = slices[:, :: -(-slices.shape[1] // ENOUGH)].contiguous()
    ends = torch.stack([slices.amin(1), slices.amax(1)], 1)
    wholes = None if whole is None else whole.expand(len(slices), 1)

    def best(first: int) -> Grid:
        part = slice(first, first + count)
        values, whole = some[part], None if wholes is None else wholes[part]

        def tried(shrink: float) -> tuple[Grid, Tensor]:
            scale, zero = scales(ends[part] * shrink, spec, whole)
            codes = round_to_grid(values, scale, zero, spec)
            rounded = (codes if zero is None else codes.sub_(zero)).mul_(scale)
            return (scale, zero), rounded.sub_(values).square_().sum(1, keepdim=True)

        return _best(tried, in_vain)

    # with ever smaller ranges the error of integers falls and then rises; that of floats comes back with every half
    in_vain = IN_VAIN if spec.format.integer else len(SHRINKS)
    count = at_once(some.shape[0], some.shape[1], some.device)
    return _joined([best(first) for first in range(0, len(slices), count)])


def shrunk_scales(slices: Tensor, spec: TensorSpec) -> list[Grid]:
    """Grids to choose from: the best by squared error, and the whole range made smaller in steps."""
    if spec.format.steps_every is not None:
        return [step_grid(slices, spec, share) for share in STEP_SHARES]
    whole = whole_scale(slices, spec)
    ends = torch.stack([slices.amin(1), slices.amax(1)], 1)
    return [least_squares_scales(slices, spec), *(scales(ends * shrink, spec, whole) for shrink in TRIED)]


def percentile_scales(slices: Tensor, spec: TensorSpec, percentile: float) -> Grid:
    """Scale (and zero point) of the range that holds so many percent of each slice's magnitudes."""
    kept = max(1, round(slices.shape[-1] * percentile / 100))
    limit = slices.abs().kthvalue(kept, dim=-1, keepdim=True).values
    return scales(slices.clamp(-limit, limit), spec, whole_scale(slices, spec))


def act_range(rows: Tensor, spec: TensorSpec, by: RangeRule, percentile: float) -> tuple[Tensor, Tensor]:
    """The lowest and the highest value that one scale for all of `rows` should reach."""
    low, high = rows.min(), rows.max()
    if by == "absmax":
        return low, high
    if by == "percentile":
        flat = rows.abs().flatten()
        limit = flat.kthvalue(max(1, round(len(flat) * percentile / 100))).values
        return low.clamp(min=-limit), high.clamp(max=limit)
    some = rows[:: max(1, rows.numel() // AT_ONCE)]

    def error(shrink: float) -> Tensor:
        grid = static_grid(low * shrink, high * shrink, spec)
        return (fake_quantize(some, spec, *grid) - some).square().sum()

    best = ACT_SHRINKS[int(torch.stack([error(shrink) for shrink in ACT_SHRINKS]).argmin())]
    return low * best, high * best


def output_scales(weight: Tensor, spec: TensorSpec, rows: Tensor) -> Grid:
    """Scale (and zero point) of each slice of a weight (out, in) with the least output error on rows (tokens, in):
    AWQ's clipping. A slice that is not of one output channel is judged by its own error alone."""
    slices = sliced(weight, spec)
    if spec.format.steps_every is not None:
        return scales(slices, spec)
    if spec.granularity not in ("per_channel", "per_group"):
        return least_squares_scales(slices, spec)
    whole, width = whole_scale(slices, spec), slices.shape[1]
    x = rows[:: -(-len(rows) // ROWS)].reshape(-1, weight.shape[1] // width, width).permute(1, 2, 0)

    def best(part: Tensor) -> Grid:
        slices = sliced(part, spec)
        ends = torch.stack([slices.amin(1), slices.amax(1)], 1)

        def tried(shrink: float) -> tuple[Grid, Tensor]:
            scale, zero = scales(ends * shrink, spec, whole)
            change = fake_quantize(part, spec, scale, zero, whole).sub_(part)
            error = (change.reshape(len(part), -1, width).transpose(0, 1) @ x).square().sum(2).T  # (out, groups)
            return (scale, zero), error.reshape(-1, 1)

        return _best(tried)

    outputs = x.shape[0] * x.shape[2]
    count = at_once(len(weight), weight.shape[1] + outputs, weight.device)
    return _joined([best(part) for part in weight.split(count)])  # type: ignore[no-untyped-call]


def _joined(found: Sequence[Grid]) -> Grid:
    """The grids of all slices, of those of some at a time."""
    zeros = [zero for _, zero in found if zero is not None]
    return torch.cat([scale for scale, _ in found]), torch.cat(zeros) if zeros else None


def _best(tried: Callable[[float], tuple[Grid, Tensor]], in_vain: int = len(SHRINKS)) -> Grid:
    """For each slice the grid of the range with the least error; the search ends after so many ranges in turn that were
    better for none."""
    (scale, zero), error = tried(SHRINKS[0])
    last = 0
    for number, shrink in enumerate(SHRINKS[1:], 1):
        (new_scale, new_zero), new_error = tried(shrink)
        better = new_error < error
        if better.any():
            last = number
        elif number - last == in_vain:
            break
        error = torch.where(better, new_error, error)
        scale = torch.where(better, new_scale, scale)
        if zero is not None and new_zero is not None:
            zero = torch.where(better, new_zero, zero)
    return scale, zero
