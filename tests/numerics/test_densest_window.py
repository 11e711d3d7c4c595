"""The shortest window of each head, against sorting all values and trying every window."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from llmc.numerics.densest_window import BINS, bin_values, count_values, shortest_window


def by_trying_all(values: Tensor, recall: float) -> tuple[float, float]:
    values = values.float().sort().values
    held = math.ceil(round(recall * len(values), 4))
    first = int((values[held - 1 :] - values[: len(values) - held + 1]).argmin())
    return float(values[first]), float(values[first + held - 1])


@pytest.mark.parametrize("recall", [1.0, 0.9999, 0.99, 0.5])
def test_the_window_is_the_one_that_trying_all_finds(recall: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 20_000).bfloat16()
    x[0, :9] = 30  # outliers on one side
    x[1] = x[1].abs() + 2  # far from 0
    x[2] *= 1e-3
    low, high = shortest_window(count_values(x), recall)
    assert [(float(a), float(b)) for a, b in zip(low, high, strict=True)] == [by_trying_all(h, recall) for h in x]


def test_a_window_holds_one_value_at_least() -> None:
    low, high = shortest_window(count_values(torch.tensor([[1.0, 2.0, 4.0]])), 1e-9)
    assert float(low) == float(high) == 1


def test_counts_of_several_calls_add_up() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3_000).bfloat16()
    whole = shortest_window(count_values(x), 0.99)
    parts = shortest_window(count_values(x[:, :700]) + count_values(x[:, 700:]), 0.99)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_float32_values_go_to_the_nearest_bin() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 5_000)
    low, high = shortest_window(count_values(x), 0.999)
    wanted = by_trying_all(x[0], 0.999)
    assert (float(low), float(high)) == pytest.approx(wanted, rel=2**-7)


def test_bins_rise_and_hold_what_is_out_of_their_range() -> None:
    values = bin_values()
    assert len(values) == BINS and bool((values.diff() > 0).all())
    low, high = shortest_window(count_values(torch.tensor([[-1e30, 1e-30, 1e30]])), 1.0)
    assert float(low) == values[0] and float(high) == values[-1]
