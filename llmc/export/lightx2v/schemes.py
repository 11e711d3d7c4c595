"""Every scheme of LightX2V's networks: the grids that it is for, what is stored of a linear, how its kernel computes.

A new scheme is one row of `SCHEMES`, and a function that makes its tensors if none here does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch

from llmc.export.part import LazyTensor, kept
from llmc.numerics.marlin import pack_marlin, permute_marlin_scales
from llmc.numerics.packing import TILE, float_bits, pack_fp6, pack_nibbles, swizzle_scales
from llmc.numerics.spec import LayerSpec, ScaleDtype, TensorSpec

if TYPE_CHECKING:
    from llmc.layers.linear import QuantLinear
    from llmc.numerics.quantize import Quantized

Runtime = Literal[
    "int8-vllm", "int8-sgl", "int8-q8f", "int8-triton", "int8-torchao", "int8-npu", "int8-tmo", "int8-iluvatar",
    "int8-vllm-hygon-dcu", "fp8-vllm", "fp8-sgl", "fp8-q8f", "fp8-triton", "fp8-torchao", "fp8-musa", "fp8-intel-xpu",
    "fp8-b128-deepgemm", "fp8-pertensor", "nvfp4", "mxfp4", "mxfp6-mxfp8", "mxfp8", "int4-g128-marlin",
]  # fmt: skip
FileLayout = Literal["single", "blocks"]
Tensors: TypeAlias = "Callable[[QuantLinear, Quantized], dict[str, LazyTensor]]"
ONLY_WHOLE: tuple[FileLayout, ...] = ("single",)  # what is loaded lazily there breaks, or computes with wrong scales


@dataclass(frozen=True)
class Scheme:
    """One `dit_quant_scheme`."""

    weight: TensorSpec
    act: TensorSpec | None  # None: the kernel multiplies float activations
    tensors: Tensors  # what is stored of a linear but its bias, by what follows the linear's name
    multiples: tuple[int, int] = (16, 16)  # of in and out features, that the kernel takes
    layouts: tuple[FileLayout, ...] = ("single", "blocks")
    scale_dtype: ScaleDtype = "bfloat16"  # the loader casts scales to it, without a word
    act_arithmetic: Mapping[str, str] = field(default_factory=dict)  # where the kernel does not just round to nearest
    warning: str = ""

    def fits(self, spec: LayerSpec) -> bool:
        """Whether layers on these grids can be stored so."""
        return _alike(spec.weight, self.weight) and _alike(spec.act, self.act)

    def computed(self, spec: LayerSpec) -> LayerSpec:
        """The spec as loader and kernel compute with it."""
        stored = spec.with_stored_scales(self.scale_dtype)
        act = stored.act and stored.act.model_copy(update=self.act_arithmetic)
        return LayerSpec(weight=stored.weight, act=act)

    def __str__(self) -> str:
        return f"weight {self.weight} with act {self.act or 'float'}"


def _alike(one: TensorSpec | None, other: TensorSpec | None) -> bool:
    grid = ("format", "granularity", "group_size", "symmetric", "dynamic")
    return (one is None) == (other is None) and all(getattr(one, name) == getattr(other, name) for name in grid
                                                    if one is not None)  # fmt: skip


def plain(layer: QuantLinear, rounded: Quantized) -> dict[str, LazyTensor]:
    """Codes as they are, and float32 scales: one of each output channel, (out, 1), or of each square block."""
    dtype: torch.dtype = getattr(torch, rounded.spec.format.dtype)
    weight = LazyTensor(dtype, rounded.shape, lambda: rounded.stored().cpu())
    return {"weight": weight, "weight_scale": kept(rounded.scale_grid())}


def per_tensor(layer: QuantLinear, rounded: Quantized) -> dict[str, LazyTensor]:
    """One scale of the weight, and the calibrated one of the input. Both of shape (1,): a runtime that divides bf16
    inputs by a scalar would round the quotient to bf16 first."""
    assert layer.state.static is not None and layer.state.static[0] is not None
    scales = {"weight_scale": rounded.scale, "input_scale": layer.state.static[0]}
    return plain(layer, rounded) | {name: kept(scale.reshape(1)) for name, scale in scales.items()}


def nvfp4(layer: QuantLinear, rounded: Quantized) -> dict[str, LazyTensor]:
    """Two codes a byte, swizzled e4m3 scales; the scales of the whole tensors as the kernels take them: the inverse of
    the input's, and the product of both for the sums."""
    assert layer.state.static is not None and rounded.whole is not None
    act_whole = layer.state.static[-1]
    assert act_whole is not None
    return _blocks_of_small_floats(rounded) | {
        "input_global_scale": kept(1 / act_whole),
        "alpha": kept(act_whole * rounded.whole.to(act_whole.device)),
    }


def mx(layer: QuantLinear, rounded: Quantized) -> dict[str, LazyTensor]:
    """Codes packed to the bit, swizzled e8m0 scales."""
    return _blocks_of_small_floats(rounded)


def marlin(layer: QuantLinear, rounded: Quantized) -> dict[str, LazyTensor]:
    """int4 codes plus 8 and float16 scales, inputs first, in the order of Marlin's kernel, and its zeroed locks."""
    out_features, in_features = rounded.shape

    def codes() -> torch.Tensor:
        return pack_marlin((rounded.stored() + 8).to(torch.uint8).T).cpu()

    scales = permute_marlin_scales(rounded.scale_grid().to(torch.float16).T)
    return {
        "weight": LazyTensor(torch.int32, (in_features // 16, out_features * 2), codes),
        "weight_scale": kept(scales),
        "weight_workspace": kept(torch.zeros(out_features // 128 * 16, dtype=torch.int32)),
    }


def _blocks_of_small_floats(rounded: Quantized) -> dict[str, LazyTensor]:
    fmt: Any = rounded.spec.format
    out_features, in_features = rounded.shape

    def codes() -> torch.Tensor:
        bits = float_bits(rounded.stored(), fmt.exponent_bits, fmt.mantissa_bits).cpu()
        match fmt.bits:
            case 4:
                return pack_nibbles(bits, low_first=True)
            case 6:
                return pack_fp6(bits)
        return bits

    rows, columns = TILE
    padded = (-(-out_features // rows) * rows, -(-in_features // fmt.group_size // columns) * columns)
    return {
        "weight": LazyTensor(torch.uint8, (out_features, in_features * fmt.bits // 8), codes),
        "weight_scale": LazyTensor(
            getattr(torch, fmt.scale_dtype), padded, lambda: swizzle_scales(rounded.stored_scales().cpu())
        ),
    }


def _int8(**own: Any) -> Scheme:
    """What every int8 runtime reads; one export serves them all."""
    weight = TensorSpec(format="int8", granularity="per_channel")
    return Scheme(weight, TensorSpec(format="int8", granularity="per_token"), plain, **own)


def _fp8(**own: Any) -> Scheme:
    """What every fp8 runtime reads; one export serves them all."""
    weight = TensorSpec(format="fp8_e4m3", granularity="per_channel")
    act = TensorSpec(format="fp8_e4m3", granularity="per_token")
    return Scheme(**{"weight": weight, "act": act, "tensors": plain, **own})


def _own_groups(weight: str, act: str, tensors: Tensors, multiples: tuple[int, int], **own: Any) -> Scheme:
    """Formats that say themselves which values share a scale."""
    dynamic = not own.pop("static", False)
    return Scheme(TensorSpec(format=weight), TensorSpec(format=act, dynamic=dynamic), tensors, multiples, **own)


# the first that fits the grids is the one to start with, unless `runtime` names another
SCHEMES: Mapping[Runtime, Scheme] = {
    "int8-vllm": _int8(),
    "int8-sgl": _int8(multiples=(16, 8)),
    "int8-q8f": _int8(),
    "int8-triton": _int8(multiples=(1, 1), act_arithmetic={"rounding": "toward_zero"}),
    "int8-torchao": _int8(act_arithmetic={"scale_dtype": "bfloat16", "quotient": "times_reciprocal_in_bf16"}),
    "int8-npu": _int8(layouts=ONLY_WHOLE),
    "int8-tmo": _int8(layouts=ONLY_WHOLE),
    "int8-iluvatar": _int8(layouts=ONLY_WHOLE),
    "int8-vllm-hygon-dcu": _int8(layouts=ONLY_WHOLE),
    "fp8-vllm": _fp8(),
    "fp8-sgl": _fp8(),
    "fp8-q8f": _fp8(),
    "fp8-triton": _fp8(multiples=(1, 1), act_arithmetic={"kept_scale_dtype": "bfloat16"}),
    "fp8-torchao": _fp8(act_arithmetic={"scale_dtype": "bfloat16", "quotient": "divided_in_bf16"}),
    "fp8-musa": _fp8(layouts=ONLY_WHOLE),
    "fp8-intel-xpu": _fp8(act=None, multiples=(1, 1)),
    "fp8-b128-deepgemm": Scheme(
        TensorSpec(format="fp8_e4m3", granularity="per_block", group_size=128),
        TensorSpec(format="fp8_e4m3", granularity="per_group", group_size=128),
        plain,
        multiples=(128, 64),
        layouts=("blocks",),  # loaded at once, its scales arrive in bf16, and DeepGEMM refuses them
    ),
    "fp8-pertensor": Scheme(
        TensorSpec(format="fp8_e4m3", granularity="per_tensor"),
        TensorSpec(format="fp8_e4m3", granularity="per_tensor", dynamic=False),
        per_tensor,
        layouts=ONLY_WHOLE,
    ),
    "nvfp4": _own_groups("nvfp4", "nvfp4", nvfp4, (32, 32), static=True, layouts=ONLY_WHOLE),
    "mxfp4": _own_groups("mxfp4", "mxfp4", mx, (128, 128)),
    "mxfp6-mxfp8": _own_groups("mxfp6", "mxfp8", mx, (128, 128)),
    "mxfp8": _own_groups("mxfp8", "mxfp8", mx, (32, 128)),
    "int4-g128-marlin": Scheme(
        TensorSpec(format="int4", granularity="per_group", group_size=128),
        None,
        marlin,
        multiples=(128, 256),
        layouts=ONLY_WHOLE,
        scale_dtype="float16",
        warning="LightX2V has the class that reads int4-g128-marlin, but refuses the scheme at start; add it to the "
        "list in `_check_dit_quantized` of base_model.py there, and run with DTYPE=FP16, which Marlin's kernel needs",
    ),
}


def find_scheme(spec: LayerSpec, runtime: Runtime | None) -> Runtime | None:
    """The scheme of that name if it fits the grids; without a name the first that does."""
    candidates = SCHEMES if runtime is None else (runtime,)
    return next((name for name in candidates if SCHEMES[name].fits(spec)), None)


def served_by(name: Runtime) -> list[Runtime]:
    """Every scheme that reads the same files."""
    mine = SCHEMES[name]
    return [
        other for other, scheme in SCHEMES.items() if (scheme.weight, scheme.tensors) == (mine.weight, mine.tensors)
    ]
