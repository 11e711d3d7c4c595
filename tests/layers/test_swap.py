"""Linears that are put in the place of others."""

import pytest
import torch
from torch import nn

from llmc.errors import CalibrationError
from llmc.layers.swap import swap_linears
from llmc.numerics.spec import LayerSpec


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_no_number_is_refused_by_name(value: float) -> None:
    block = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 4)).bfloat16()
    with torch.no_grad():
        block[1].weight[2, 3] = value
    with pytest.raises(CalibrationError, match=r"blocks\.0\.1\.weight holds NaN or infinity"):
        swap_linears([("blocks.0", block)], {"blocks.0": ["0", "1"]}, lambda name: LayerSpec())
