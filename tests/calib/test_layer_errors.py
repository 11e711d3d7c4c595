"""The errors of the layer table."""

import pytest
import torch
from torch import nn

from llmc.calib.block import BlockStep, LayerError
from llmc.calib.group import Group
from llmc.calib.layer_errors import layer_errors
from llmc.layers.linear import QuantLinear
from llmc.layers.transforms import Rotate, Scale
from llmc.numerics.quantize import fake_quantize
from llmc.numerics.spec import LayerSpec, TensorSpec

W8A8 = LayerSpec(
    weight=TensorSpec(format="int8", granularity="per_channel"), act=TensorSpec(format="int8", granularity="per_token")
)
OUTPUTS = 300  # of which every second stands for all


def errors_of(linear: QuantLinear, rows: torch.Tensor) -> LayerError:
    group = Group("g", ("linear",), (linear,), (), stats={"rows": rows})
    linear.round()
    return layer_errors(BlockStep("block", linear, [group]))["linear"]


def linear_and_rows() -> tuple[QuantLinear, torch.Tensor]:
    torch.manual_seed(0)
    rows = torch.randn(64, 32)
    rows[:, 3] *= 20
    return QuantLinear(nn.Linear(32, OUTPUTS), W8A8), rows


@torch.no_grad()
def test_they_are_those_of_the_rounded_product() -> None:
    linear, rows = linear_and_rows()
    found = errors_of(linear, rows)
    weight = linear.weight[::2]
    wanted = rows @ weight.T
    missed = fake_quantize(rows, W8A8.act) @ fake_quantize(weight, W8A8.weight).T - wanted
    error = float(missed.square().sum() / wanted.square().sum())
    assert found.recipe == pytest.approx(error, rel=1e-4) and found.baseline == pytest.approx(error, rel=1e-4)


@torch.no_grad()
def test_they_are_told_in_the_basis_of_the_float_model() -> None:
    """Rows that are scaled are rounded to the same codes, each by itself; rotated ones are other numbers."""
    as_it_was, scaled, rotated = (linear_and_rows() for _ in range(3))
    q, _ = torch.linalg.qr(torch.randn(OUTPUTS, OUTPUTS))
    scaled[0].transform_output(Scale(torch.linspace(0.01, 30, OUTPUTS)))
    rotated[0].transform_output(Rotate((q,)))
    plain, after_scale, after_rotation = (errors_of(*each) for each in (as_it_was, scaled, rotated))
    for of in ("error", "weight_error"):
        error = plain.figures()[of]
        assert after_scale.figures()[of] == pytest.approx(error, rel=1e-4)
        assert error / 4 < after_rotation.figures()[of] < error * 4
