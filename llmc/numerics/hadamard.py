"""Hadamard matrices: entries of one size, rows orthogonal, so that a product with one spreads every value evenly."""

from __future__ import annotations

from functools import cache

import torch

from llmc.errors import UnsupportedSpec


def block_hadamard(width: int, block_size: int | None = None) -> torch.Tensor:
    """An orthogonal block-diagonal (width, width) matrix of equal Hadamard blocks; by default the largest that fit."""
    size = block_size or largest_order(width)
    if width % size:
        raise UnsupportedSpec(f"block_size {size} does not divide the {width} inputs of a layer; leave it out")
    return torch.kron(torch.eye(width // size), hadamard(size))


def largest_order(width: int) -> int:
    """The largest order that divides `width` and that a matrix is known of."""
    return max(order for order in range(1, width + 1) if width % order == 0 and _parts(order) is not None)


def random_hadamard(width: int, generator: torch.Generator) -> torch.Tensor:
    """The same with the signs of its rows drawn at random, so that no direction is special."""
    signs = torch.randint(0, 2, (width, 1), generator=generator) * 2 - 1
    return block_hadamard(width) * signs


@cache
def hadamard(order: int) -> torch.Tensor:
    """An orthogonal Hadamard matrix of that order."""
    parts = _parts(order)
    if parts is None:
        raise UnsupportedSpec(f"no Hadamard matrix of order {order} is known here; use a power of two")
    prime, doublings = parts
    matrix = torch.ones(1, 1) if prime is None else _paley(prime)
    for _ in range(doublings):
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    unit: torch.Tensor = matrix / order**0.5
    return unit


@cache
def _parts(order: int) -> tuple[int | None, int] | None:
    """order = (q + 1) * 2^k with a prime q = 3 mod 4 (Paley, 1933), or 2^k; None if neither."""
    doublings = (order & -order).bit_length() - 1
    if order == 1 << doublings:
        return None, doublings
    for k in range(doublings - 1):
        q = (order >> k) - 1
        if q % 4 == 3 and all(q % divisor for divisor in range(2, int(q**0.5) + 1)):
            return q, k
    return None


def _paley(q: int) -> torch.Tensor:
    """Paley's first construction of order q + 1, from which differences are squares modulo q."""
    squares = {i * i % q for i in range(1, q)}
    character = torch.tensor([0.0] + [1.0 if i in squares else -1.0 for i in range(1, q)])
    index = torch.arange(q)
    jacobsthal = character[(index[:, None] - index[None, :]) % q]
    skew = torch.zeros(q + 1, q + 1)
    skew[0, 1:], skew[1:, 0], skew[1:, 1:] = 1, -1, jacobsthal
    return skew + torch.eye(q + 1)
