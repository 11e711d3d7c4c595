"""Hadamard matrices of every size that models have."""

import pytest
import torch

from llmc.errors import UnsupportedSpec
from llmc.numerics.hadamard import block_hadamard, hadamard, largest_order


@pytest.mark.parametrize("order", [1, 2, 64, 12, 20, 96, 108, 140, 320, 1536])
def test_rows_are_orthogonal_and_entries_of_one_size(order: int) -> None:
    matrix = hadamard(order)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(order), rtol=0, atol=1e-5)
    torch.testing.assert_close(matrix.abs(), torch.full_like(matrix, order**-0.5))


@pytest.mark.parametrize("width, order", [(5120, 5120), (8960, 8960), (13824, 13824), (27, 1), (1536, 1536), (100, 20)])
def test_real_widths_find_the_largest_order(width: int, order: int) -> None:
    assert largest_order(width) == order


def test_blocks_mix_only_their_own_channels() -> None:
    matrix = block_hadamard(48, 16)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(48), rtol=0, atol=1e-5)
    assert (matrix[:16, 16:] == 0).all()
    with pytest.raises(UnsupportedSpec, match="block_size 5 does not divide the 48"):
        block_hadamard(48, 5)
