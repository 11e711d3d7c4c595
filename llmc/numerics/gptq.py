"""GPTQ's solver (arXiv:2210.17323): round column by column, pushing each column's error onto those not yet rounded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llmc.numerics.quantize import Quantized, round_to_grid, sliced, unsliced, whole_scale
from llmc.numerics.spec import TensorSpec

PANEL = 128  # columns whose errors are pushed one by one; the rest of the matrix gets them as one product
MAX_DAMPING = 10.0


@dataclass(frozen=True)
class Solution:
    """What the solver found, and the damping that it took to factor the Gram matrix."""

    rounded: Quantized
    damping: float


def gptq(
    weight: Tensor, gram: Tensor, spec: TensorSpec, scale: Tensor, zero: Tensor | None, damping: float, act_order: bool
) -> Solution:
    """Round `weight` (out, in) on a given grid so that `(W - Q) gram (W - Q)^T` is small."""
    shape = (weight.shape[0], weight.shape[1])
    order = gram.diagonal().argsort(descending=True) if act_order else torch.arange(shape[1], device=weight.device)
    factor, used = inverse_factor(gram[order][:, order], damping)
    # one input column of the weight is one contiguous row here: layout decides the speed
    step = spread(scale, spec, shape).T[order].contiguous()
    shift = None if zero is None else spread(zero, spec, shape).T[order].contiguous()
    codes = torch.empty_like(step)
    codes[order] = _solve(weight.float().T[order].contiguous(), factor, step, shift, spec)
    whole = whole_scale(sliced(weight.float(), spec), spec)
    packed = spec.format.pack(sliced(codes.T.contiguous(), spec))
    return Solution(Quantized(packed, scale, zero, spec, shape, whole), used)


def _solve(weight: Tensor, factor: Tensor, step: Tensor, shift: Tensor | None, spec: TensorSpec) -> Tensor:
    """Codes of the transposed weight (in, out); `weight` is used up."""
    codes = torch.empty_like(weight)
    for start in range(0, len(weight), PANEL):
        end = min(start + PANEL, len(weight))
        panel, errors = weight[start:end], torch.empty_like(weight[start:end])
        inside = factor[start:end, start:end]
        diagonal = inside.diagonal().tolist()
        for i in range(end - start):
            k = start + i
            zero = None if shift is None else shift[k]
            codes[k] = round_to_grid(panel[i], step[k], zero, spec)
            value = (codes[k] if zero is None else codes[k] - zero) * step[k]
            torch.div(panel[i] - value, diagonal[i], out=errors[i])
            panel[i + 1 :].addr_(inside[i, i + 1 :], errors[i], alpha=-1)
        weight[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
    return codes


def least_squares(weight: Tensor, gram: Tensor, cross: Tensor, damping: float) -> Tensor:
    """The weight that, on quantized inputs q, comes closest to what `weight` gives on float inputs x: with
    gram = q^T q and cross = x^T q it is W cross gram^-1, and the rest of the error does not depend on it (GPTAQ,
    arXiv:2504.02692; Qronos, arXiv:2505.11695). Damping draws directions that were never seen towards `weight`."""
    ridge = _ridge(gram, damping)
    factor = torch.linalg.cholesky(gram + ridge)
    moved = weight.to(gram.dtype) @ (cross + ridge)
    return torch.cholesky_solve(moved.T, factor).T.to(weight.dtype)


def inverse_factor(gram: Tensor, damping: float) -> tuple[Tensor, float]:
    """The upper U with U^T U = gram^-1, and the damping (a share of the mean diagonal) that made it positive definite.

    Turned end for end, gram = R R^T with an upper R, and U is R^-1: one factorization and one triangular inverse.
    """
    identity = torch.eye(len(gram), device=gram.device, dtype=gram.dtype)
    while True:
        lower, failed = torch.linalg.cholesky_ex((gram + _ridge(gram, damping)).flip(0, 1))
        if not failed:
            return torch.linalg.solve_triangular(lower.flip(0, 1), identity, upper=True), damping
        if damping > MAX_DAMPING:
            raise ValueError("the Gram matrix holds NaN or infinity")
        damping = max(damping * 10, 1e-4)


def _ridge(gram: Tensor, damping: float) -> Tensor:
    """A share of each channel's own energy: a share of the mean would drown small channels beside outliers."""
    diagonal = gram.diagonal()
    return torch.diag(damping * diagonal.clamp(min=diagonal.mean() * 1e-6 + 1e-12))


def spread(per_slice: Tensor, spec: TensorSpec, shape: tuple[int, ...]) -> Tensor:
    """A value per slice, as a value per element."""
    like = sliced(torch.empty(shape, device="meta"), spec)
    return unsliced(per_slice.expand(like.shape), spec, shape)
