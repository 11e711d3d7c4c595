"""Codes on disk are the codes that were put there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llmc.calib.values_on_disk import on_disk, put_away
from llmc.errors import CalibrationError
from llmc.layers.linear import QuantLinear, in_mode
from llmc.numerics.spec import LayerSpec, TensorSpec


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.bfloat16])
def test_a_tensor_on_disk_has_the_same_values(dtype: torch.dtype) -> None:
    tensor = torch.randn(5, 7).clamp(0, 3).to(dtype)
    assert torch.equal(on_disk(tensor).float(), tensor.float()) and on_disk(tensor).dtype == dtype


def test_a_layer_gives_the_same_from_disk() -> None:
    spec = LayerSpec(
        weight=TensorSpec(format="int4", granularity="per_channel"),
        act=TensorSpec(format="int8", granularity="per_token"),
    )
    layer, x = QuantLinear(nn.Linear(16, 8), spec), torch.randn(3, 16)
    layer.round()
    with in_mode([layer], "quantized"), torch.no_grad():
        before = layer(x)
        put_away(layer)
        assert torch.equal(layer(x), before)


def test_a_disk_that_fills_up_is_told_with_the_file(little_room: int) -> None:
    told = r"llmc-codes-\w+/codes cannot be written: .*; make room there, or let TMPDIR"
    with pytest.raises(CalibrationError, match=told):
        on_disk(torch.zeros(2 * little_room, dtype=torch.int8))
