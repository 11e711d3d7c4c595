"""Hadamard matrices: entries of one size, rows orthogonal, so that a product with one spreads every value evenly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch

from llmc.errors import UnsupportedSpec

LARGEST_DOUBLING = 6  # factors of 64: products of small matrices, and few of them
REGULAR_ORDERS = (256, 64, 16)  # powers of four that runtimes have kernels for


def block_hadamard(width: int, block_size: int | None = None) -> tuple[torch.Tensor, ...]:
    """Orthogonal factors of a Hadamard matrix whose size divides the width; by default of the largest that does."""
    size = block_size or largest_order(width)
    if width % size:
        raise UnsupportedSpec(f"block_size {size} does not divide the {width} inputs of a layer; leave it out")
    return hadamard(size)


def times_kronecker(x: torch.Tensor, factors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Each block of the last dimension times the Kronecker product of square matrices, in float32 or better; it costs
    the sum of their sizes per element, and not the product."""
    from llmc.numerics.quantize import at_once  # which needs all of torch; who only lists methods does not

    exact = torch.promote_types(x.dtype, torch.float32)
    sizes = [len(factor) for factor in factors]
    blocks = x.reshape(-1, math.prod(sizes))
    turned = torch.empty_like(blocks)
    count = at_once(blocks.shape[0], blocks.shape[1], x.device)
    for first in range(0, len(blocks), max(1, count)):
        some = blocks[first : first + count]
        y = some.to(exact)
        for size, factor in zip(sizes, factors, strict=True):  # the first axis is multiplied and goes last, in turn
            y = y.reshape(len(some), size, -1).transpose(1, 2) @ factor.to(exact)
        turned[first : first + count] = y.reshape(some.shape)
    return turned.reshape(x.shape)


@cache
def largest_order(width: int) -> int:
    """The largest order that divides `width` and that a matrix is known of."""
    return max(order for order in range(1, width + 1) if width % order == 0 and _parts(order) is not None)


def random_hadamard(width: int, generator: torch.Generator) -> torch.Tensor:
    """A matrix of the largest blocks, with the signs of its rows drawn at random, so that no direction is special."""
    signs = torch.randint(0, 2, (width, 1), generator=generator) * 2 - 1
    return times_kronecker(torch.eye(width), block_hadamard(width)) * signs


@cache
def hadamard(order: int) -> tuple[torch.Tensor, ...]:
    """Orthogonal matrices whose Kronecker product is a Hadamard matrix of that order."""
    parts = _parts(order)
    if parts is None:
        raise UnsupportedSpec(f"no Hadamard matrix of order {order} is known here; use a power of two")
    prime, doublings = parts
    sizes = [2 ** min(LARGEST_DOUBLING, doublings - done) for done in range(0, doublings, LARGEST_DOUBLING)]
    factors = [_sylvester(size) for size in sizes]
    if prime is not None or not factors:
        factors.append(torch.ones(1, 1) if prime is None else _paley(prime))
    return tuple(factor / len(factor) ** 0.5 for factor in factors)


def regular_order(width: int) -> int | None:
    """The largest of the orders of regular matrices that divides `width`; None if none does."""
    return next((order for order in REGULAR_ORDERS if width % order == 0), None)


@cache
def regular_hadamard(order: int) -> torch.Tensor:
    """The orthogonal matrix of ConvRot, a Kronecker power of one of order 4 whose rows have equal sums: no output
    collects what all inputs have in common, as the first one of Sylvester's does. It is its own inverse."""
    if order not in REGULAR_ORDERS:
        raise UnsupportedSpec(f"no regular Hadamard matrix of order {order} is known here; use 256, 64 or 16")
    four = torch.ones(4, 4) - 2 * torch.eye(4).flip(0)
    matrix = four
    while len(matrix) < order:
        matrix = torch.kron(matrix, four)
    return matrix / math.sqrt(order)


def times_blocks(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Each block of the last dimension times one matrix, summed in float32 or better: in one product, as runtimes that
    rotate inputs do it, so that what they round is the same."""
    exact = torch.promote_types(x.dtype, torch.float32)
    turned = x.reshape(-1, len(matrix)).to(exact) @ matrix.to(exact)
    return turned.to(x.dtype).reshape(x.shape)


@cache
def _parts(order: int) -> tuple[int | None, int] | None:
    """order = (q + 1) * 2^k with a prime q = 3 mod 4 (Paley, 1933), or 2^k; None if neither."""
    doublings = (order & -order).bit_length() - 1
    if order == 1 << doublings:
        return None, doublings
    for k in range(doublings - 2, -1, -1):  # the smallest prime makes the smallest factors
        q = (order >> k) - 1
        if q % 4 == 3 and all(q % divisor for divisor in range(2, int(q**0.5) + 1)):
            return q, k
    return None


def _sylvester(order: int) -> torch.Tensor:
    """Of a power of two, by doubling."""
    matrix = torch.ones(1, 1)
    while len(matrix) < order:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), matrix)
    return matrix


def _paley(q: int) -> torch.Tensor:
    """Paley's first construction of order q + 1, from which differences are squares modulo q."""
    squares = {i * i % q for i in range(1, q)}
    character = torch.tensor([0.0] + [1.0 if i in squares else -1.0 for i in range(1, q)])
    index = torch.arange(q)
    jacobsthal = character[(index[:, None] - index[None, :]) % q]
    skew = torch.zeros(q + 1, q + 1)
    skew[0, 1:], skew[1:, 0], skew[1:, 1:] = 1, -1, jacobsthal
    return skew + torch.eye(q + 1)
