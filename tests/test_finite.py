"""What is a number, and what is none."""

import pytest
import torch

from llmc.finite import is_finite, not_finite

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("value", [INF, -INF, NAN])
def test_one_value_of_many_tells(dtype: torch.dtype, value: float) -> None:
    x = torch.randn(3, 70, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert is_finite(x)
    x[1, 69, 4] = value
    assert not is_finite(x) and not is_finite(x.transpose(0, 1)[..., ::2])


def test_integers_and_nothing_are_numbers() -> None:
    assert is_finite(torch.tensor([3, 4])) and is_finite(torch.empty(0, 7))


def test_places_in_nested_values_are_told() -> None:
    value = {"a": [1.0, {"b c": NAN}], "d": (INF, 2), "e": "nan", "f": 3, "g": None}
    assert list(not_finite(value)) == ["a[1].b c", "d[0]"]
