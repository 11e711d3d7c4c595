"""What a grid says of itself."""

from __future__ import annotations

import pytest

from llmc.numerics.spec import LayerSpec, TensorSpec


def spec(name: str, static: bool = False) -> LayerSpec:
    act = TensorSpec(format=name, granularity="per_tensor" if static else "per_token", dynamic=not static)
    return LayerSpec(weight=TensorSpec(format=name, granularity="per_channel"), act=act)


@pytest.mark.parametrize(
    "wrong, says",
    [
        (LayerSpec(weight=spec("int8").weight), "both quantized"),
        (LayerSpec(weight=spec("int8").weight, act=spec("fp8_e4m3").act), "int8 by int8"),
        (spec("fp8_e5m2"), "fp8 e4m3 by fp8 e4m3"),
        (LayerSpec(weight=TensorSpec(format="mxfp8"), act=TensorSpec(format="mxfp8")), "whole sums"),
        (
            LayerSpec(weight=TensorSpec(format="int4", granularity="per_group", group_size=8), act=spec("int8").act),
            "whole sums",
        ),
    ],
)
def test_what_hardware_cannot_multiply_is_named(wrong: LayerSpec, says: str) -> None:
    assert says in (wrong.real_problem() or "")


def test_what_hardware_can_multiply_is_no_problem() -> None:
    for good in (spec("int8"), spec("fp8_e4m3", static=True), LayerSpec()):
        assert good.real_problem() is None
