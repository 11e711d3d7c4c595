"""Each type of MindIE's linears, read back as its classes do and multiplied as its kernels do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from llmc.errors import ExportError
from llmc.export.mindie.exporter import MindIE, linear_tensors
from llmc.export.mindie.names import RuntimeLinear
from llmc.export.mindie.types import TYPES, type_of
from llmc.layers.linear import QuantLinear
from llmc.layers.steps import StepGrids, at_step
from llmc.layers.transforms import Scale
from llmc.numerics.spec import LayerSpec
from tests.export.mindie import reader as mindie_reader

IN, OUT, STEPS, FIRST_STATIC = 1024, 24, 4, 1
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
INTEGERS = {
    "weight": ("int8", OUT, IN), "weight_scale": ("float32", OUT, 1), "weight_offset": ("float32", OUT, 1)
}  # fmt: skip
SHAPES = {  # written down from the format, for bf16
    "W8A8_DYNAMIC": INTEGERS,
    "W8A8": {
        "weight": ("int8", OUT, IN), "input_scale": ("float32", 1), "input_offset": ("float32", 1),
        "deq_scale": ("float32", OUT), "quant_bias": ("int32", OUT),
    },
    "W8A8_TIMESTEP": {
        **INTEGERS,
        "input_scale": ("float32", STEPS, 1), "input_offset": ("float32", STEPS, 1),
        "deq_scale": ("float32", STEPS, OUT), "quant_bias": ("int32", STEPS, OUT),
    },
    "W4A4_DYNAMIC": INTEGERS,
    "W8A16": {"weight": ("int8", OUT, IN), "weight_scale": ("float32", OUT, 1)},
    "W4A16": {"weight": ("int8", OUT, IN), "weight_scale": ("float32", OUT, 1)},
    "W8A8_MXFP8": {"weight": ("float8_e4m3fn", OUT, IN), "weight_scale": ("uint8", OUT, IN // 32)},
    "W4A4_MXFP4": {"weight": ("float8_e4m3fn", OUT, IN), "weight_scale": ("uint8", OUT, IN // 32)},
    "W4A4_MXFP4_DUALSCALE": {
        "weight": ("float8_e4m3fn", OUT, IN), "weight_scale": ("uint8", OUT, IN // 32),
        "weight_dual_scale": ("float32", OUT, IN // 512, 1),
    },
}  # fmt: skip
CASES = [
    pytest.param(name, MindIE(soc=soc, dtype=dtype, mindie_version=version), id=f"{name} {dtype} {version}")
    for name in TYPES
    for dtype in DTYPES
    for version in ((3, "2026-07") if "FP4" in name else (3,))
    for soc in ("a5" if "MX" in name else "a2",)
]


def spec_of(name: str, symmetric: bool = True) -> LayerSpec:
    act = TYPES[name].act  # type: ignore[index]
    changed = act and act.model_copy(update={"symmetric": symmetric})
    return LayerSpec(weight=TYPES[name].weight, act=changed)  # type: ignore[index]


def inputs(tokens: int = 40) -> torch.Tensor:
    """Tokens with channels far larger than others, and all of them above zero by more than below."""
    random = torch.Generator().manual_seed(1)
    x = torch.randn(tokens, IN, generator=random) + 0.3
    x[:, ::100] *= 30
    return x


def finished(name: str, exporter: MindIE, symmetric: bool = True, seed: int = 0) -> QuantLinear:
    """A layer after calibration, with smoothing where the type can have it."""
    torch.manual_seed(seed)
    layer = QuantLinear(nn.Linear(IN, OUT, bias=name != "W4A4_DYNAMIC"), exporter.computed(spec_of(name, symmetric)))
    if TYPES[name].multiplies:  # type: ignore[index]
        layer.transform(Scale((torch.rand(IN) + 0.5).bfloat16().float()))
    x = layer.prepare(inputs())
    act = layer.spec.act
    if name == "W8A8":
        layer.fix_act_scale(x.min(), x.max())
    if name == "W8A8_TIMESTEP":
        assert act is not None
        ranges = {step: torch.stack([x.min(), x.max()]) / (step + 1) for step in range(STEPS)}
        layer.state = replace(layer.state, steps=StepGrids.of(ranges, act, STEPS, FIRST_STATIC))
    layer.round()
    layer.mode = "quantized"
    return layer


def stored(name: str, exporter: MindIE, *layers: QuantLinear) -> dict[str, torch.Tensor]:
    linear = RuntimeLinear("x", tuple(map(str, range(len(layers)))), layers)
    tensors = linear_tensors(linear, name, exporter.runtime)  # type: ignore[arg-type]
    made = {key: tensor.make() for key, tensor in tensors.items()}
    assert all((tensors[key].dtype, tensors[key].shape) == (made[key].dtype, tuple(made[key].shape)) for key in made)
    return made


@torch.no_grad()
@pytest.mark.parametrize(("name", "exporter"), CASES)
def test_what_mindie_computes_from_the_file_is_what_was_judged(name: str, exporter: MindIE) -> None:
    layer, dtype = finished(name, exporter), DTYPES[exporter.dtype]
    assert type_of(layer.spec, steps=layer.state.steps is not None) == name
    tensors, x = stored(name, exporter, layer), inputs()
    for step in range(STEPS) if name == "W8A8_TIMESTEP" else (0,):
        static_step = step if name == "W8A8_TIMESTEP" and step >= FIRST_STATIC else None
        read = mindie_reader.linear(tensors, "x", name, dtype, exporter.mindie_version, static_step)
        with at_step(step):
            judged = layer(x)
        # the bias of a float32 model is rounded to the type in which MindIE runs
        allowed = 0 if layer.bias is None else float(layer.bias.abs().max()) * torch.finfo(dtype).eps
        torch.testing.assert_close(read(x), judged, rtol=1e-5, atol=1e-5 + allowed)


@pytest.mark.parametrize("name", TYPES)
def test_a_file_has_the_tensors_of_the_format_in_its_types_and_shapes(name: str) -> None:
    exporter = MindIE(soc="a5" if "MX" in name else "a2")
    tensors = stored(name, exporter, finished(name, exporter))
    wanted = dict(SHAPES[name])
    if name != "W4A4_DYNAMIC":
        wanted["bias"] = ("float32", OUT)
    prefix = "x.linear" if TYPES[name].multiplies else "x"  # type: ignore[index]
    expected = {f"{prefix}.{leaf}": said for leaf, said in wanted.items()}
    if TYPES[name].multiplies:  # type: ignore[index]
        expected["x.div.mul_scale"] = ("bfloat16", IN)
    assert {key: (str(t.dtype).removeprefix("torch."), *t.shape) for key, t in tensors.items()} == expected


@torch.no_grad()
@pytest.mark.parametrize(("name", "exporter"), CASES)
def test_the_file_dequantized_is_the_judged_weight_bit_for_bit(name: str, exporter: MindIE) -> None:
    layer = finished(name, exporter)
    rounded, tensors = layer.state.rounded, stored(name, exporter, layer)
    assert rounded is not None
    own = {key.rpartition(".")[2]: tensor for key, tensor in tensors.items()}
    codes = own["weight"]
    if codes.dtype == torch.uint8:
        codes = mindie_reader.unpacked(codes)
    scale = own.get("weight_scale")
    if scale is None and exporter.dtype == "fp16":  # only the product with the input's is in the file, in 19 bits
        assert torch.equal(codes, rounded.stored())
        return
    if scale is None:
        scale = (own["deq_scale"] / own["input_scale"])[:, None]
    if scale.dtype == torch.uint8:
        scale = (2.0 ** (scale.double() - 127)).float().repeat_interleave(32, 1)
    if "weight_dual_scale" in own:
        scale = scale * own["weight_dual_scale"].squeeze(-1).repeat_interleave(512, 1)
    assert torch.equal(codes.float() * scale, rounded.dequantize())
    if own.get("weight_scale") is not None and own["weight_scale"].dtype == torch.float32:
        assert torch.equal(own["weight_scale"].to(DTYPES[exporter.dtype]).float(), own["weight_scale"])


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["W8A8", "W8A8_TIMESTEP"])
def test_a_grid_with_an_offset_is_taken_out_of_the_sums(name: str, dtype: str) -> None:
    exporter = MindIE(dtype=dtype)  # type: ignore[arg-type]
    layer = finished(name, exporter, symmetric=False)
    tensors = stored(name, exporter, layer)
    offset = tensors["x.linear.input_offset"]
    assert (offset != 0).all() and torch.equal(offset, offset.to(torch.int8).float())
    step = STEPS - 1
    read = mindie_reader.linear(tensors, "x", name, DTYPES[dtype], static_step=None if name == "W8A8" else step)
    with at_step(step):
        torch.testing.assert_close(read(inputs()), layer(inputs()), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "offset"])
def test_a_model_in_bf16_differs_by_the_rounding_of_its_outputs_alone(symmetric: bool) -> None:
    layer, x = finished("W8A8", MindIE(), symmetric), inputs().bfloat16()
    read = mindie_reader.linear(stored("W8A8", MindIE(), layer), "x", "W8A8", torch.bfloat16)
    judged, wanted = layer(x), read(x)
    assert judged.dtype == torch.bfloat16
    torch.testing.assert_close(judged.float(), wanted, rtol=2**-7, atol=2**-7 * float(wanted.abs().mean()))


@torch.no_grad()
def test_values_below_the_calibrated_range_reach_the_lowest_code_as_the_kernel_lets_them() -> None:
    exporter = MindIE()
    layer = finished("W8A8", exporter)
    read = mindie_reader.linear(stored("W8A8", exporter, layer), "x", "W8A8", torch.bfloat16)
    torch.testing.assert_close(read(-10 * inputs()), layer(-10 * inputs()), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["W8A8_DYNAMIC", "W8A8", "W8A8_TIMESTEP", "W8A8_MXFP8", "W4A4_MXFP4_DUALSCALE"])
def test_linears_that_are_one_in_mindie_compute_as_they_did_side_by_side(name: str) -> None:
    exporter = MindIE(soc="a5" if "MX" in name else "a2")
    layers = [finished(name, exporter, seed=seed) for seed in range(3)]
    for other in layers[1:]:  # as a group gives them
        for transform in other.state.transforms:
            assert isinstance(transform, Scale)
        state = replace(other.state, transforms=(), rounded=None)
        other.state = state
        other.state = replace(state, transforms=layers[0].state.transforms, static=layers[0].state.static,
                              steps=layers[0].state.steps)  # fmt: skip
        other.round()
    static_step = 2 if name == "W8A8_TIMESTEP" else None
    read = mindie_reader.linear(stored(name, exporter, *layers), "x", name, torch.bfloat16, static_step=static_step)
    with at_step(2):
        judged = torch.cat([layer(inputs()) for layer in layers], -1)
    torch.testing.assert_close(read(inputs()), judged, rtol=1e-5, atol=2e-3)


def test_linears_with_scales_of_their_own_cannot_be_one() -> None:
    exporter = MindIE()
    layers = [finished("W8A8_DYNAMIC", exporter, seed=seed) for seed in range(2)]
    with pytest.raises(ExportError, match="have not a smoothing scale in common"):
        stored("W8A8_DYNAMIC", exporter, *layers)


def test_a_bias_that_no_int32_can_hold_is_refused() -> None:
    exporter = MindIE()
    layer = finished("W8A8", exporter)
    with torch.no_grad():
        layer.weight[3] *= 1e-12
    layer.state = replace(layer.state, rounded=None)
    layer.round()
    with pytest.raises(ExportError, match=r"a row of its weight is almost zero beside its bias"):
        stored("W8A8", exporter, layer)
