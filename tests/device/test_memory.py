"""What one linear holds beyond its input, weight and output, at a sixteenth of the sizes of Wan 14B's ffn: as shares of
the output the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llmc.algorithms.gptq import GPTQ
from llmc.calib.block import BlockStep
from llmc.calib.group import Group
from llmc.calib.observers import Awaited, Gram
from llmc.layers import kernels
from llmc.layers.linear import Mode, QuantLinear, in_mode
from llmc.layers.transforms import Scale
from llmc.numerics import quantize
from llmc.numerics.spec import LayerSpec, TensorSpec
from tests.device.pretended import Pretended

SHRUNK = 16
TOKENS, NARROW, WIDE = 32760 // SHRUNK, 5120 // SHRUNK, 13824 // SHRUNK
INT8 = TensorSpec(format="int8", granularity="per_channel")
STATIC = TensorSpec(format="int8", granularity="per_tensor", dynamic=False, symmetric=False)
GROUPS = TensorSpec(format="int4", granularity="per_group", group_size=32, symmetric=False)
FP8 = TensorSpec(format="fp8_e4m3", granularity="per_channel")


def both(grid: TensorSpec) -> LayerSpec:
    return LayerSpec(weight=grid, act=grid)


GRIDS = {
    "int8 per token": LayerSpec(weight=INT8, act=TensorSpec(format="int8", granularity="per_token")),
    "fp8 per token": LayerSpec(weight=FP8, act=TensorSpec(format="fp8_e4m3", granularity="per_token")),
    "int8 per tensor": LayerSpec(weight=INT8, act=TensorSpec(format="int8", granularity="per_tensor")),
    "int8 static asymmetric": LayerSpec(weight=INT8, act=STATIC),
    "int8 static, integer sums": LayerSpec(weight=INT8, act=STATIC, sums="fp19"),
    "int4 groups": both(GROUPS),
    "mxfp8": both(TensorSpec(format="mxfp8")),
    "mxfp4": both(TensorSpec(format="mxfp4")),
    "nvfp4": both(TensorSpec(format="nvfp4")),
    "weights alone": LayerSpec(weight=GROUPS),
}


@pytest.fixture(autouse=True)
def parts_are_smaller_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts have a fixed number of values: of rows and columns that are 16 times fewer."""
    monkeypatch.setattr(quantize, "HELD", quantize.HELD // SHRUNK**2)
    monkeypatch.setattr(kernels, "MULTIPLIED", kernels.MULTIPLIED // SHRUNK**2)


def rounded_layer(
    device: torch.device, inputs: int, outputs: int, grids: LayerSpec
) -> tuple[QuantLinear, torch.Tensor]:
    """With a change of basis at run time; and what it reads."""
    layer = QuantLinear(nn.Linear(inputs, outputs, device=device, dtype=torch.bfloat16), grids)
    x = torch.randn(1, TOKENS, inputs).to(device, torch.bfloat16)
    layer.transform(Scale(torch.rand(inputs).to(device) + 0.5))
    if layer.awaits_act_scale:
        layer.fix_act_scale(x.amin().float(), x.amax().float())
    layer.round()
    return layer, x


def beyond_output(pretended: Pretended, layer: QuantLinear, x: torch.Tensor, mode: Mode) -> float:
    """The most held beside input, weight and output, as a share of the output."""
    with in_mode([layer], mode):
        before = pretended.held
        pretended.forget()
        y = layer(x)
    return (pretended.peak - before - y.nbytes) / y.nbytes


@torch.no_grad()
@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [pytest.param(NARROW, WIDE, id="up"), pytest.param(WIDE, NARROW, id="down", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
def test_fake_quantization_holds_little_beside(
    pretended: Pretended, grids: LayerSpec, inputs: int, outputs: int
) -> None:
    layer, x = rounded_layer(pretended.device, inputs, outputs, grids)
    assert beyond_output(pretended, layer, x, "float") == 0
    found = {mode: beyond_output(pretended, layer, x, mode) for mode in ("transformed", "quantized")}
    assert max(found.values()) <= 1.5


@torch.no_grad()
def test_gptq_holds_halves_of_two_gram_matrices_and_one_of_them_whole(pretended: Pretended) -> None:
    width, outputs = 1024, 256
    layer = QuantLinear(nn.Linear(width, outputs, device=pretended.device), LayerSpec(weight=INT8))
    before, sums, together = pretended.held, {}, torch.randn(16, width)  # what makes channels go together
    for name in ("gram", "gram_apart"):
        sums[name] = Gram(Awaited(1, 1, width, pretended.device))
        x = (torch.randn(2 * width, 16) @ together + torch.randn(2 * width, width)).to(pretended.device)
        sums[name].update(x, x)
        del x
    whole = 4 * width**2
    assert pretended.held - before < 1.2 * whole
    group = Group("g", ("a",), (layer,), (), sums=sums)
    block = BlockStep("block", nn.ModuleList([layer]), [group], samples=12)
    pretended.forget()
    GPTQ().apply(block)
    assert layer.state.rounded is not None and block.fits["a"].of_plain < 1
    assert pretended.peak - before < 2.7 * whole + layer.weight.nbytes
    assert group.sums == {} and pretended.held - before < 2 * layer.weight.nbytes
