"""Networks whose tensors are not all numbers."""

import pytest
import torch
from torch import nn

from llmc.errors import CalibrationError
from llmc.layers.finite import check_tensors


def network() -> nn.Sequential:
    found = nn.Sequential(nn.Embedding(5, 8), nn.LayerNorm(8), nn.Linear(8, 4), nn.BatchNorm1d(4)).bfloat16()
    found.register_buffer("table", torch.ones(3), persistent=False)
    return found


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["0.weight", "1.bias", "2.weight", "3.running_mean", "table"])
def test_each_tensor_that_holds_no_number_is_refused_by_name(name: str, value: float) -> None:
    spoilt = network()
    tensor = dict([*spoilt.named_parameters(), *spoilt.named_buffers()])[name].detach()
    tensor.view(-1)[-1] = value
    with pytest.raises(CalibrationError, match=rf"part\.{name} holds NaN or infinity, in 1 of {tensor.numel()} values"):
        check_tensors("part", spoilt)


def test_large_numbers_are_numbers_and_the_meta_device_holds_none() -> None:
    large = nn.Linear(8, 8, dtype=torch.float16)
    nn.init.constant_(large.weight, 65504)
    check_tensors("large", nn.ModuleList([large, nn.Linear(8, 8, device="meta")]))
