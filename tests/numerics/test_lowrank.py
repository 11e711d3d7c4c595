"""Matrices of small rank against a full decomposition in float64."""

from __future__ import annotations

import torch

from llmc.numerics.lowrank import best_up, closest, closest_on_outputs


def problem(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    decay = torch.linspace(0, -4, columns).exp()
    x = torch.randn(4 * columns, columns, generator=generator) * decay
    return torch.randn(rows, columns, generator=generator) * decay.flip(0), x.T @ x


def test_the_closest_matrix_of_a_rank_is_that_of_the_singular_values() -> None:
    for rows, columns in ((40, 24), (300, 400)):  # decomposed whole, and by random projection
        matrix, _ = problem(rows, columns)
        up, down = closest(matrix, 8)
        left = torch.linalg.svdvals(matrix.double())[8:].square().sum()
        assert (matrix - up @ down).double().square().sum() < 1.005 * left


def test_on_outputs_nothing_of_that_rank_comes_closer() -> None:
    matrix, gram = problem(60, 48)
    up, down = closest_on_outputs(matrix, gram, 6)
    damped = gram.double() + torch.diag(1e-3 * gram.double().diagonal())
    root = torch.linalg.cholesky(damped)
    left = torch.linalg.svdvals(matrix.double() @ root)[6:].square().sum()
    found = ((matrix - up @ down).double() @ root).square().sum()
    assert found < 1.005 * left
    assert ((matrix - torch.matmul(*closest(matrix, 6))).double() @ root).square().sum() > 1.05 * found


def test_the_best_up_is_the_least_squares_solution() -> None:
    matrix, gram = problem(60, 48)
    down = torch.randn(5, 48, generator=torch.Generator().manual_seed(1))
    root = torch.linalg.cholesky(gram.double())
    wanted = torch.linalg.lstsq((down.double() @ root).T, (matrix.double() @ root).T).solution.T
    torch.testing.assert_close(best_up(matrix, down, gram).double(), wanted, rtol=0.02, atol=0.01)
