"""The best matrix of a small rank: closest to another one, or closest in what both give on measured inputs."""

from __future__ import annotations

import torch
from torch import Tensor

SPARE = 16  # more directions than asked for make a random projection nearly exact
POWER_STEPS = 3
RIDGE = 1e-3  # of each channel's own energy: directions that were hardly seen must not blow up


def closest(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """up (out, rank) and down (rank, in) of the closest matrix of that rank."""
    u, s, vt = _leading(matrix, rank)
    root = s.sqrt()
    return u * root, vt * root[:, None]


def closest_on_outputs(matrix: Tensor, gram: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """up and down of the matrix of that rank that is closest on outputs: with gram = L L^T the closest to matrix @ L
    (QERA, arXiv:2410.06040)."""
    damped = gram + torch.diag(RIDGE * gram.diagonal().clamp(min=gram.diagonal().mean() * 1e-6 + 1e-12))
    root = torch.linalg.cholesky(damped)
    up, down = closest(matrix @ root, rank)
    return up, torch.linalg.solve_triangular(root, down, upper=False, left=False)


def best_up(matrix: Tensor, down: Tensor, gram: Tensor) -> Tensor:
    """The up (out, rank) with which `up @ down` comes closest to the matrix on outputs: least squares."""
    seen = gram @ down.T.to(gram.dtype)  # (in, rank)
    inner = down.to(gram.dtype) @ seen
    inner = inner + torch.diag(RIDGE * inner.diagonal())
    up: Tensor = torch.linalg.solve(inner, (matrix.to(gram.dtype) @ seen).T).T
    return up.to(matrix.dtype)


def _leading(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The largest singular values and their vectors; of a large matrix by power iteration on a random subspace
    (arXiv:0909.4061), which costs a few products instead of a full decomposition."""
    if 4 * (rank + SPARE) >= min(matrix.shape):
        u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    else:
        generator = torch.Generator(matrix.device).manual_seed(0)
        start = torch.randn(
            matrix.shape[1], rank + SPARE, generator=generator, device=matrix.device, dtype=matrix.dtype
        )
        basis = torch.linalg.qr(matrix @ start).Q
        for _ in range(POWER_STEPS):
            basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ basis).Q).Q
        small, s, vt = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
        u = basis @ small
    return u[:, :rank], s[:rank], vt[:rank]
