"""Hadamard matrices of every size that models have."""

import pytest
import torch

from llmc.errors import UnsupportedSpec
from llmc.numerics.hadamard import block_hadamard, hadamard, largest_order, times_kronecker


@pytest.mark.parametrize("order", [1, 2, 64, 256, 12, 20, 96, 108, 140, 320, 1536])
def test_rows_are_orthogonal_and_entries_of_one_size(order: int) -> None:
    matrix = times_kronecker(torch.eye(order), hadamard(order))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(order), rtol=0, atol=1e-5)
    torch.testing.assert_close(matrix.abs(), torch.full_like(matrix, order**-0.5))


@pytest.mark.parametrize("width, order", [(5120, 5120), (8960, 8960), (13824, 13824), (27, 1), (1536, 1536), (100, 20)])
def test_real_widths_find_the_largest_order_of_small_factors(width: int, order: int) -> None:
    assert largest_order(width) == order
    assert max(len(factor) for factor in hadamard(order)) <= 140


def test_blocks_mix_only_their_own_channels() -> None:
    matrix = times_kronecker(torch.eye(48), block_hadamard(48, 16))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(48), rtol=0, atol=1e-5)
    assert (matrix[:16, 16:] == 0).all() and (matrix[:16, :16] != 0).all()
    with pytest.raises(UnsupportedSpec, match="block_size 5 does not divide the 48"):
        block_hadamard(48, 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_product_with_factors_is_that_with_their_kronecker_product(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    factors = [torch.randn(size, size, generator=generator) for size in (2, 3, 4)]
    x = torch.randn(5, 7, 48, generator=generator).to(dtype)
    dense = torch.block_diag(*2 * [torch.kron(torch.kron(factors[0], factors[1]), factors[2])])
    wanted = x.double() @ dense.double()
    found = times_kronecker(x, factors)
    assert found.dtype == dtype and found.shape == x.shape
    torch.testing.assert_close(found.double(), wanted, rtol=8e-3 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)
