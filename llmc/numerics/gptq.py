"""GPTQ's solver (arXiv:2210.17323): round column by column, and let each column make up for the errors of those before.

With gram = L L^T the output error |E L|^2 of E = W - Q falls apart into columns, each of which knows only the errors of
the columns after it (QuIP, arXiv:2307.13304, shows that this is GPTQ). So columns are rounded from the last to the
first, one Cholesky factor is all that is needed, and no inverse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llmc.numerics.quantize import Quantized, round_to_grid, sliced, whole_scale
from llmc.numerics.spec import TensorSpec

PANEL = 128  # columns that later ones reach with one product of matrices
STRIP = 16  # columns inside a panel that reach each other one by one
MAX_DAMPING = 10.0


@dataclass(frozen=True)
class Factor:
    """A Gram matrix ready to solve with: shared by all linears that read the same tensor."""

    unit: Tensor  # (in, in): the Cholesky factor, each column divided by its diagonal element
    pivots: Tensor  # (in,): the squares of those diagonal elements
    order: Tensor  # (in,): channels from the last to be rounded to the first
    damping: float  # the share of each channel's energy that it took to be positive definite

    @classmethod
    def of(cls, gram: Tensor, damping: float, act_order: bool) -> Factor:
        """Channels with the largest inputs are rounded first, so that all others can make up for them."""
        energy = gram.diagonal()
        order = energy.argsort() if act_order else torch.arange(len(gram), device=gram.device).flip(0)
        damped, used = gram[order][:, order], 0.0
        while used < MAX_DAMPING:
            used, before = max(damping, used * 10, 1e-4 if used else 0.0), used
            damped.diagonal().add_(_ridge(energy[order], used - before))
            unit, failed = torch.linalg.cholesky_ex(damped)
            if not failed:
                diagonal = unit.diagonal().clone()
                return cls(unit.div_(diagonal), diagonal.square(), order, used)
        raise ValueError("the Gram matrix holds NaN or infinity")


Grid = tuple[Tensor, Tensor | None]  # scale and zero point of each slice


@dataclass(frozen=True)
class Solution:
    """A rounded weight, and the squared error of each of its outputs."""

    rounded: Quantized
    errors: Tensor | None  # (out,), where they were asked for


def gptq(
    weights: Sequence[Tensor], factor: Factor, spec: TensorSpec, grids: Sequence[Grid], compare: bool = False
) -> list[Solution]:
    """Round weights (out, in) that read the same inputs, each on its given grid, so that outputs change little;
    `compare` asks how much they do."""
    shapes = [(weight.shape[0], weight.shape[1]) for weight in weights]
    step = torch.cat([_by_column(scale, spec, shape) for (scale, _), shape in zip(grids, shapes, strict=True)], 1)
    zeros = [_by_column(zero, spec, shape) for (_, zero), shape in zip(grids, shapes, strict=True) if zero is not None]
    # one input column of the weights is one contiguous row here: layout decides the speed
    columns = torch.cat([weight.float().T for weight in weights], 1)[factor.order]
    solver = _Columns(columns, factor, step, torch.cat(zeros, 1) if zeros else None, spec, compare)
    solver.solve()
    rows = [rows for rows, _ in shapes]
    codes = torch.split(torch.empty_like(solver.codes).index_copy_(0, factor.order, solver.codes), rows, 1)
    errors = [None] * len(rows) if solver.errors is None else torch.split(solver.errors, rows)
    return [
        Solution(_quantized(weight, grid, part.T, spec), error)
        for weight, grid, part, error in zip(weights, grids, codes, errors, strict=True)
    ]


def gptq_on_best_grid(
    weights: Sequence[Tensor], factor: Factor, spec: TensorSpec, grids: Sequence[Sequence[Grid]]
) -> list[Quantized]:
    """The same with several grids for each weight: every output channel gets the one that disturbs it least."""
    chosen: list[Solution] = []
    for alternatives in zip(*grids, strict=True):
        found = gptq(weights, factor, spec, alternatives, compare=len(grids[0]) > 1)
        chosen = [_better(*pair) for pair in zip(chosen, found, strict=True)] if chosen else found
    return [solution.rounded for solution in chosen]


def _better(one: Solution, other: Solution) -> Solution:
    """Of each output channel the one with the smaller error."""
    assert one.errors is not None and other.errors is not None
    keep = (one.errors <= other.errors)[:, None]

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(keep, a.reshape(len(keep), -1), b.reshape(len(keep), -1)).reshape(a.shape)

    a, b = one.rounded, other.rounded
    zero = None if a.zero is None or b.zero is None else pick(a.zero, b.zero)
    mixed = replace(a, codes=pick(a.codes, b.codes), scale=pick(a.scale, b.scale), zero=zero)
    return Solution(mixed, torch.minimum(one.errors, other.errors))


def _quantized(weight: Tensor, grid: Grid, codes: Tensor, spec: TensorSpec) -> Quantized:
    whole = whole_scale(sliced(weight.float(), spec), spec)
    packed = spec.format.pack(sliced(codes.contiguous().float(), spec))
    return Quantized(packed, *grid, spec, (weight.shape[0], weight.shape[1]), whole)


class _Columns:
    """The transposed weights while their rows, which are input columns, are rounded from the last to the first."""

    def __init__(
        self, columns: Tensor, factor: Factor, step: Tensor, zero: Tensor | None, spec: TensorSpec, compare: bool
    ) -> None:
        self.left = columns  # a column's weights; once it is rounded, the error that it leaves
        self.unit, self.spec = factor.unit.to(columns.dtype), spec
        self.steps, self.zeros = step.unbind(), None if zero is None else zero.unbind()
        width = spec.group_size if spec.granularity in ("per_group", "per_block") else len(columns)
        self.grid_row = (factor.order // (width or 1)).tolist()
        self.pivots = factor.pivots.tolist()
        self.codes = torch.empty_like(columns, dtype=torch.bfloat16)  # every format's codes are exact in it
        self.errors = torch.zeros_like(columns[0]) if compare else None  # of each output, squared

    def solve(self) -> None:
        """Fill `codes`, (in, out) in the factor's order, and `errors`."""
        for end in range(len(self.left), 0, -PANEL):
            start = max(0, end - PANEL)
            self._halve(start, end, self.unit[end:, start:end].T @ self.left[end:])

    def _halve(self, start: int, end: int, moved: Tensor) -> None:
        """`moved` is how far each column aims from its own weights, to make up for the errors of the columns after it;
        within a panel the later half goes first, and reaches the other one as a product of matrices."""
        if end - start <= STRIP:
            return self._one_by_one(start, end, moved)
        middle = (start + end) // 2
        self._halve(middle, end, moved[middle - start :])
        moved = moved[: middle - start].addmm_(self.unit[middle:end, start:middle].T, self.left[middle:end])
        return self._halve(start, middle, moved)

    def _one_by_one(self, start: int, end: int, moved: Tensor) -> None:
        # rows of each matrix taken apart once: on narrow layers, indexing would cost as much as the arithmetic
        unit = self.unit[start:end, start:end]
        left, codes, aims = (rows.unbind() for rows in (self.left[start:end], self.codes[start:end], moved))
        for i in range(end - start - 1, -1, -1):
            row = self.grid_row[start + i]
            step, zero = self.steps[row], None if self.zeros is None else self.zeros[row]
            code = round_to_grid(left[i] + aims[i], step, zero, self.spec)
            codes[i].copy_(code)
            left[i].sub_((code if zero is None else code.sub_(zero)).mul_(step))
            if self.errors is not None:
                missed = aims[i].add_(left[i])  # what of this column's aim nothing will make up for
                self.errors.addcmul_(missed, missed, value=self.pivots[start + i])
            moved[:i].addr_(unit[i, :i], left[i])


def least_squares(weight: Tensor, gram: Tensor, cross: Tensor, damping: float) -> Tensor:
    """The weight that, on quantized inputs q, comes closest to what `weight` gives on float inputs x: with
    gram = q^T q and cross = x^T q it is W cross gram^-1, and the rest of the error does not depend on it (GPTAQ,
    arXiv:2504.02692; Qronos, arXiv:2505.11695). Damping draws directions that were never seen towards `weight`."""
    ridge = torch.diag(_ridge(gram.diagonal(), damping))
    factor = torch.linalg.cholesky(gram + ridge)
    moved = weight.to(gram.dtype) @ (cross + ridge)
    return torch.cholesky_solve(moved.T, factor).T.to(weight.dtype)


def _ridge(energy: Tensor, damping: float) -> Tensor:
    """A share of each channel's own energy: a share of the mean would drown small channels beside outliers."""
    return damping * energy.clamp(min=energy.mean() * 1e-6 + 1e-12)


def _by_column(per_slice: Tensor, spec: TensorSpec, shape: tuple[int, int]) -> Tensor:
    """A value per slice as (groups of input columns, out): one row if all columns of an output share theirs."""
    rows = shape[0]
    if spec.granularity == "per_tensor":
        return per_slice.reshape(1, 1).expand(1, rows)
    if spec.granularity == "per_block":
        assert spec.group_size is not None
        per_slice = per_slice.reshape(-(-rows // spec.group_size), -1).repeat_interleave(spec.group_size, 0)[:rows]
    return per_slice.reshape(rows, -1).T.contiguous()
