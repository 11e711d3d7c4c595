"""GPTQ's solver (arXiv:2210.17323): round column by column, and let each column make up for the errors of those before.

With gram = L L^T the output error |E L|^2 of E = W - Q falls apart into columns, each of which knows only the errors of
the columns after it (QuIP, arXiv:2307.13304, shows that this is GPTQ). So columns are rounded from the last to the
first, one Cholesky factor is all that is needed, and no inverse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from llmc.numerics.precision import exact_products
from llmc.numerics.quantize import Quantized, joined, packed_codes, round_to_grid, rounder, sliced, whole_scale
from llmc.numerics.spec import TensorSpec

PANEL = 128  # columns that are moved or mirrored at a time
FACTORED = 192  # columns that are factorized at a time
SPAN = 512  # columns that all after them reach with one product of matrices; in it halves reach each other,
STRIP = 16  # down to so many columns, one by one
MAX_DAMPING = 10.0


@dataclass(frozen=True)
class Factor:
    """A Gram matrix ready to solve with: shared by all linears that read the same tensor."""

    unit: Tensor  # (in, in): below the diagonal the Cholesky factor, each column divided by its diagonal element
    pivots: Tensor  # (in,): the squares of those diagonal elements
    order: Tensor  # (in,): channels from the last to be rounded to the first
    energy: Tensor  # (in,): the diagonal of the Gram matrix, in the channels' own order
    damping: float  # the share of each channel's energy that it took to be positive definite

    @classmethod
    @exact_products()
    def of(cls, gram: Tensor, damping: float, act_order: bool) -> Factor:
        """Channels with the largest inputs are rounded first, so that all others can make up for them. The factor takes
        the place of `gram`: at large widths a second matrix of that size is most of the memory."""
        energy = gram.diagonal().clone()
        order = energy.argsort() if act_order else torch.arange(len(gram), device=gram.device).flip(0)
        _reorder_rows(gram, order)
        _reorder_columns(gram, order)
        used = 0.0
        while used < MAX_DAMPING:
            used = max(damping, used * 10, 1e-4 if used else 0.0)
            gram.diagonal().copy_((energy + _ridge(energy, used))[order])
            pivots = _factorize(gram)
            if pivots is not None:
                return cls(gram, pivots, order, energy, used)
            _mirror(gram)
        raise ValueError("the Gram matrix holds NaN or infinity")

    @property
    def ridge(self) -> Tensor:
        """What was added to the energy of each channel, in their own order."""
        return _ridge(self.energy, self.damping)

    def gram(self) -> Tensor:
        """The Gram matrix again; it takes the place of the factor, which is no more."""
        _mirror(self.unit)
        self.unit.diagonal().copy_(self.energy[self.order])
        back = self.order.argsort()
        _reorder_rows(self.unit, back)
        _reorder_columns(self.unit, back)
        return self.unit

    @exact_products()
    def solve(self, matrix: Tensor) -> Tensor:
        """matrix (rows, in) times the inverse of the damped Gram matrix."""
        known = matrix[:, self.order]
        known = torch.linalg.solve_triangular(self.unit.T, known, upper=True, left=False, unitriangular=True)
        known /= self.pivots
        known = torch.linalg.solve_triangular(self.unit, known, upper=False, left=False, unitriangular=True)
        return torch.empty_like(known).index_copy_(1, self.order, known)


def _reorder_rows(matrix: Tensor, order: Tensor) -> None:
    """Put rows in another order, in place."""
    for columns in matrix.split(PANEL, 1):  # type: ignore[no-untyped-call]
        columns.copy_(columns.index_select(0, order))


def _reorder_columns(matrix: Tensor, order: Tensor) -> None:
    """Put columns in another order, in place."""
    for rows in matrix.split(PANEL):  # type: ignore[no-untyped-call]
        rows.copy_(rows.gather(1, order.expand(len(rows), -1)))


def _factorize(gram: Tensor) -> Tensor | None:
    """Find U diag(pivots) U^T = gram, U with ones on its diagonal; U takes the place of what is below the diagonal, and
    the rest stays. Returns the pivots, or None if the matrix is not positive definite."""
    pivots = gram.diagonal().clone()
    failures = torch.zeros((), dtype=torch.int32, device=gram.device)  # looked at once: no panel waits for a device
    for start in range(0, len(gram), FACTORED):
        end = min(start + FACTORED, len(gram))
        corner, below = gram[start:end, start:end], gram[end:, start:end]
        reach = (gram[start:end, :start] * pivots[:start]).T
        root, failed = torch.linalg.cholesky_ex(corner - gram[start:end, :start] @ reach)
        failures |= failed
        diagonal = root.diagonal()
        below.addmm_(gram[end:, :start], reach, alpha=-1)
        # the inverse of a panel is soon found, and a product with it is faster than solving for so many rows
        one = torch.eye(end - start, device=root.device, dtype=root.dtype)
        inverse = torch.linalg.solve_triangular(root, one, upper=False)
        below.copy_(below @ (inverse / diagonal[:, None]).T)
        corner.copy_(corner.triu() + (root / diagonal).tril(-1))
        pivots[start:end] = diagonal.square()
    return None if failures else pivots


def _mirror(matrix: Tensor) -> None:
    """Make what is below the diagonal equal to what is above it."""
    for start in range(0, len(matrix), PANEL):
        end = start + PANEL
        corner = matrix[start:end, start:end]
        corner.copy_(corner.triu() + corner.triu(1).T)
        matrix[end:, start:end] = matrix[start:end, end:].T


Grid = tuple[Tensor, Tensor | None]  # scale and zero point of each slice


class Rows(Protocol):
    """A matrix in float32, some rows of which can be had at a time."""

    @property
    def shape(self) -> Sequence[int]: ...

    def __getitem__(self, rows: slice, /) -> Tensor: ...


@dataclass(frozen=True)
class Solution:
    """A rounded weight, and the squared error of each of its outputs."""

    rounded: Quantized
    errors: Tensor | None  # (out,), where they were asked for


@exact_products()
def gptq(
    weights: Sequence[Rows], factor: Factor, spec: TensorSpec, grids: Sequence[Grid], compare: bool = False
) -> list[Solution]:
    """Round weights (out, in) that read the same inputs, each on its given grid, so that outputs change little;
    `compare` asks how much they do."""
    shapes = [(weight.shape[0], weight.shape[1]) for weight in weights]
    step = torch.cat([_by_column(scale, spec, shape) for (scale, _), shape in zip(grids, shapes, strict=True)], 1)
    zeros = [_by_column(zero, spec, shape) for (_, zero), shape in zip(grids, shapes, strict=True) if zero is not None]
    zero = torch.cat(zeros, 1) if zeros else None
    rows = [rows for rows, _ in shapes]
    # one input column of the weights is one contiguous row here: layout decides the speed
    columns = torch.empty(len(factor.order), sum(rows), device=step.device)
    parts = columns.split(rows, 1)  # type: ignore[no-untyped-call]
    for weight, part in zip(weights, parts, strict=True):
        for outputs in range(0, part.shape[1], PANEL):
            some = slice(outputs, outputs + PANEL)
            part[:, some] = weight[some].index_select(1, factor.order).T
    solver = _Columns(columns, factor, step, zero, spec, compare)
    solver.solve()
    back = factor.order.argsort()
    errors = [None] * len(rows) if solver.errors is None else torch.split(solver.errors, rows)
    return [
        Solution(_quantized(weight, grid, part, back, spec), error)
        for weight, grid, part, error in zip(weights, grids, parts, errors, strict=True)
    ]


def gptq_on_best_grid(
    weights: Sequence[Rows], factor: Factor, spec: TensorSpec, grids: Sequence[Sequence[Grid]]
) -> list[Quantized]:
    """Weights rounded column by column on several grids: every output channel gets the one that disturbs it least."""
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


def _quantized(weight: Rows, grid: Grid, errors: Tensor, back: Tensor, spec: TensorSpec) -> Quantized:
    """The codes of a weight without its errors, which lie in rows of `errors` that `back` tells for each column: it is
    on the grid, and whatever the rounding it must stay there. Some rows at a time, where none needs to know of
    others."""
    count = 2 * PANEL if spec.rows_apart else weight.shape[0]  # transposing is fast for so many
    firsts = range(0, weight.shape[0], count)
    parts = [slice(first, min(first + count, weight.shape[0])) for first in firsts]
    return joined([_codes(weight[some], _of_rows(grid, weight, some), errors[:, some], back, spec) for some in parts])


def _of_rows(grid: Grid, weight: Rows, some: slice) -> Grid:
    """What of a grid is of some rows of the weight."""
    scale, zero = grid
    if some == slice(0, weight.shape[0]):
        return grid
    each = len(scale) // weight.shape[0]  # slices of a row
    own = slice(some.start * each, some.stop * each)
    return scale[own], None if zero is None else zero[own]


def _codes(weight: Tensor, grid: Grid, errors: Tensor, back: Tensor, spec: TensorSpec) -> Quantized:
    nearest = spec.model_copy(update={"rounding": "nearest_even", "quotient": "exact"})
    rounded = torch.empty_like(weight)
    for start in range(0, len(back), 2 * PANEL):
        some = slice(start, start + 2 * PANEL)
        torch.sub(weight[:, some], errors.index_select(0, back[some]).T, out=rounded[:, some])
    codes = packed_codes(sliced(rounded, spec), *grid, nearest)
    whole = whole_scale(sliced(weight.float(), spec), spec)
    return Quantized(codes, *grid, spec, (weight.shape[0], weight.shape[1]), whole)


class _Columns:
    """The transposed weights while their rows, which are input columns, are rounded from the last to the first."""

    def __init__(
        self, columns: Tensor, factor: Factor, step: Tensor, zero: Tensor | None, spec: TensorSpec, compare: bool
    ) -> None:
        self.left = columns  # a column's weights; once it is rounded, the error that it leaves
        self.unit, self.spec = factor.unit.to(columns.dtype), spec
        self.step, self.zero = step, zero
        self.round = rounder(spec)
        self.one_grid = len(step) == 1  # all columns share it: then they are worked on in units of it
        self.grids: list[Grid] = []
        self.steps: list[Tensor] = []  # of each column, where integers that a group has are chosen by steps
        if spec.format.steps_every is not None and zero is not None:
            own, self.zero = zero.unbind(), None
            self.steps = [own[row] for row in (factor.order // spec.format.steps_every).tolist()]
        if not self.one_grid:
            steps, zeros = step.unbind(), [None] * len(step) if zero is None else zero.unbind()
            assert spec.group_size is not None
            self.grids = [(steps[row], zeros[row]) for row in (factor.order // spec.group_size).tolist()]
        self.pivots = factor.pivots.tolist()
        self.errors = torch.zeros_like(columns[0]) if compare else None  # of each output, squared

    @torch.inference_mode()  # to call so many small operations takes longer with the bookkeeping of autograd
    def solve(self) -> None:
        """Leave the errors of rounding in place of the weights, and fill `errors`."""
        if self.one_grid:
            self.left.div_(self.step)
            if self.zero is not None:
                self.left.add_(self.zero)
        for end in range(len(self.left), 0, -SPAN):
            start = max(0, end - SPAN)
            self._halve(start, end, torch.addmm(self.left[start:end], self.unit[end:, start:end].T, self.left[end:]))
        if self.one_grid:
            self.left.mul_(self.step)
            if self.errors is not None:
                self.errors.mul_(self.step[0].square())

    def _halve(self, start: int, end: int, aims: Tensor) -> None:
        """Each column aims at its own weights, moved to make up for the errors of the columns after it; within a span
        the later half goes first, and reaches the other one as a product of matrices."""
        if end - start <= STRIP:
            return self._one_by_one(start, end, aims)
        middle = (start + end) // 2
        self._halve(middle, end, aims[middle - start :])
        aims = aims[: middle - start].addmm_(self.unit[middle:end, start:middle].T, self.left[middle:end])
        return self._halve(start, middle, aims)

    def _one_by_one(self, start: int, end: int, aims: Tensor) -> None:
        if aims.is_meta:  # who only asks for sizes would wait for thousands of columns, which take no more than this
            return
        # rows of each matrix taken apart once: on narrow layers, indexing would cost as much as the arithmetic
        reached = self.unit[start:end, start:end].tril(-1).T.contiguous().unbind()  # by later columns; by others: 0
        strip = self.left[start:end].T
        for i, (left, aim) in reversed(list(enumerate(zip(strip.unbind(1), aims.unbind(), strict=True)))):
            aim.addmv_(strip, reached[i])
            value = self._rounded(aim if self.errors is None else aim.clone(), start + i)
            left.sub_(value)
            if self.errors is not None:
                missed = aim.sub_(value)  # what of this column's aim nothing will make up for
                self.errors.addcmul_(missed, missed, value=self.pivots[start + i])

    def _rounded(self, aim: Tensor, column: int) -> Tensor:
        """What a column becomes; it may take the place of its aim."""
        if self.steps:
            return self.spec.format.nearest(aim, self.steps[column])
        if self.one_grid:
            return self.round(aim)
        step, zero = self.grids[column]
        code = round_to_grid(aim, step, zero, self.spec)
        return (code if zero is None else code.sub_(zero)).mul_(step)


@exact_products()
def least_squares(weight: Tensor, cross: Tensor, factor: Factor) -> Tensor:
    """The weight that, on quantized inputs q, comes closest to what `weight` gives on float inputs x: with
    gram = q^T q and cross = x^T q it is W cross gram^-1, and the rest of the error does not depend on it (GPTAQ,
    arXiv:2504.02692; Qronos, arXiv:2505.11695). Damping draws directions that were never seen towards `weight`."""
    weight = weight.to(cross.dtype)
    return factor.solve((weight @ cross).addcmul_(weight, factor.ridge)).float()


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
