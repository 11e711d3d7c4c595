"""Products of rounded matrices against those in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import linear

from llmc.calib.probe import rounded_product
from llmc.numerics.quantize import fake_quantize
from llmc.numerics.spec import LayerSpec

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
ACTS: list[dict[str, Any] | None] = [
    None,
    {"format": "int8", "granularity": "per_token"},
    {"format": "int8", "granularity": "per_token", "symmetric": False},
    {"format": "int8", "granularity": "per_tensor"},
    {"format": "fp8_e4m3", "granularity": "per_token"},
]
WEIGHTS: list[dict[str, Any] | None] = [
    None,
    {"format": "int8", "granularity": "per_channel"},
    {"format": "int4", "granularity": "per_channel"},
    {"format": "int4", "granularity": "per_channel", "symmetric": False},
    {"format": "int4", "granularity": "per_group", "group_size": 32},
    {"format": "fp8_e4m3", "granularity": "per_tensor"},
    {"format": "fp8_e5m2", "granularity": "per_block", "group_size": 32},
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("act", ACTS, ids=str)
@pytest.mark.parametrize("weight", WEIGHTS, ids=str)
def test_a_rounded_product_is_that_of_both_rounded(
    act: dict[str, Any] | None, weight: dict[str, Any] | None, device: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(rows, 64, generator=generator).to(device) for rows in (40, 48))
    both = LayerSpec.model_validate({"act": act, "weight": weight})
    wanted = linear(fake_quantize(x, both.act).double(), fake_quantize(w, both.weight).double())
    torch.testing.assert_close(rounded_product(x, w, both).double(), wanted, rtol=1e-5, atol=1e-5)
