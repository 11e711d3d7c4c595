"""Narrower ranges than the largest magnitude: a few values clipped, all others rounded more finely."""

from __future__ import annotations

import torch

from llmc.numerics.quantize import round_to_grid, scales, whole_scale
from llmc.numerics.spec import TensorSpec

SHRINKS = tuple(1 - step / 40 for step in range(21))  # 1.0 down to 0.5


def least_squares_scales(
    slices: torch.Tensor, spec: TensorSpec, importance: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scale (and zero point) of each slice with the least squared rounding error over a grid of ranges; errors count
    by `importance` (of the same shape as the slices), if that is given."""
    whole = whole_scale(slices, spec)
    best, best_error = scales(slices, spec, whole), torch.full((len(slices), 1), torch.inf, device=slices.device)
    for shrink in SHRINKS:
        scale, zero = scales(slices * shrink, spec, whole)
        codes = round_to_grid(slices, scale, zero, spec)
        error = ((codes if zero is None else codes - zero) * scale - slices).square()
        error = (error if importance is None else error * importance).sum(-1, keepdim=True)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best = (
            torch.where(better, scale, best[0]),
            None if zero is None or best[1] is None else torch.where(better, zero, best[1]),
        )
    return best


def percentile_scales(
    slices: torch.Tensor, spec: TensorSpec, percentile: float
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scale (and zero point) of the range that holds so many percent of each slice's magnitudes."""
    kept = max(1, round(slices.shape[-1] * percentile / 100))
    limit = slices.abs().kthvalue(kept, dim=-1, keepdim=True).values
    return scales(slices.clamp(-limit, limit), spec, whole_scale(slices, spec))
