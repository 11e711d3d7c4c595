"""Outputs that are made some rows at a time."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from llmc.layers import kernels
from llmc.layers.kernels import fitted
from llmc.layers.linear import Mode, QuantLinear, in_mode
from llmc.layers.transforms import Rotate, Scale
from llmc.numerics.spec import LayerSpec, TensorSpec

INT8 = TensorSpec(format="int8", granularity="per_channel")
FP8 = TensorSpec(format="fp8_e4m3", granularity="per_channel")
STATIC = TensorSpec(format="int8", granularity="per_tensor", dynamic=False)
GRIDS = {
    "each token its own": LayerSpec(weight=INT8, act=TensorSpec(format="int8", granularity="per_token")),
    "one for all tokens": LayerSpec(weight=INT8, act=TensorSpec(format="int8", granularity="per_tensor")),
    "one with a zero point": LayerSpec(
        weight=INT8, act=TensorSpec(format="int8", granularity="per_tensor", symmetric=False)
    ),
    "one of the type of the input": LayerSpec(
        weight=FP8, act=TensorSpec(format="fp8_e4m3", granularity="per_tensor", scale_dtype="of_input")
    ),
    "static": LayerSpec(weight=INT8, act=STATIC),
    "static, integer sums": LayerSpec(weight=INT8, act=STATIC, sums="float32"),
    "groups under one": LayerSpec(weight=TensorSpec(format="nvfp4"), act=TensorSpec(format="nvfp4")),
    "groups": LayerSpec(weight=TensorSpec(format="mxfp8"), act=TensorSpec(format="mxfp8")),
    "weights alone": LayerSpec(weight=TensorSpec(format="int4", granularity="per_channel")),
}


@torch.no_grad()
@pytest.mark.parametrize("mode", ["transformed", "quantized", "real"])
@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
def test_rows_taken_apart_give_what_they_give_together(
    grids: LayerSpec, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer, x = QuantLinear(nn.Linear(64, 48), grids), torch.randn(2, 25, 64) * torch.rand(2, 25, 1)
    layer.transform(Scale(torch.rand(64) + 0.5))
    layer.transform(Rotate((torch.linalg.qr(torch.randn(64, 64)).Q,)))
    layer.split_lowrank(torch.randn(48, 4), torch.randn(4, 64))
    if layer.awaits_act_scale:
        layer.fix_act_scale(layer.prepare(x).amin(), layer.prepare(x).amax())
    layer.round()
    with in_mode([layer], mode):
        together = layer(x)
        monkeypatch.setattr(kernels, "MULTIPLIED", 7 * 64)
        apart = layer(x)
    # products of other numbers of rows may be summed in another order
    torch.testing.assert_close(apart, together, rtol=1e-5, atol=1e-5)


def test_an_int8_weight_is_padded_once_for_all_rows_and_not_copied_where_it_fits() -> None:
    with FakeTensorMode():  # which knows tensors of CUDA without one
        odd, even = (torch.empty(shape, dtype=torch.int8, device="cuda") for shape in ((33, 20), (96, 64)))
        wanted = fitted(odd)
        assert wanted.shape == (40, 24)
        assert fitted(wanted) is wanted and fitted(even) is even
