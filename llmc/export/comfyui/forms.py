"""Every form of a quantized linear that ComfyUI reads: for which grids, what is stored, what its kernels do.

One file may hold all of them. A new form is one row of `FORMS`, and a function that makes its tensors if none does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from llmc.export.part import LazyTensor, kept
from llmc.numerics.packing import float_bits, pack_nibbles, swizzle_scales
from llmc.numerics.spec import LayerSpec, ScaleDtype, TensorSpec

if TYPE_CHECKING:
    from llmc.layers.transforms import Rotation
    from llmc.numerics.quantize import Quantized

Tensors: TypeAlias = "Callable[[Quantized, torch.dtype], dict[str, LazyTensor]]"  # the type is that of the model
Layout: TypeAlias = "Callable[[torch.Tensor], torch.Tensor]"
SEEN = "0.29"  # the version of ComfyUI that was seen to read the forms which do not ask for a newer one
LATER = "later than 0.29"


@dataclass(frozen=True)
class Form:
    """What one `format` of a layer's description means."""

    format: str
    weights: tuple[TensorSpec, ...]  # grids that can be stored so
    acts: tuple[TensorSpec | None, ...]  # how inputs are rounded; None: weights alone are quantized
    tensors: Tensors  # what is stored of a weight, by what follows the layer's name, row by row
    layouts: Mapping[str, Layout] = field(default_factory=dict)  # of what is stored in another order than by rows
    rotation: Rotation = "never"
    says_whether_rotated: bool = True  # what else is said of a rotation is how many channels it mixes
    multiplies_inputs: bool = False  # whether the file can hold what an input is multiplied by
    multiples: tuple[int, int] = (1, 1)  # of in and out features
    scale_dtype: ScaleDtype = "bfloat16"  # in which scales are exact; where a weight is dequantized they become that
    weight_arithmetic: Mapping[str, str] = field(default_factory=dict)
    act_arithmetic: Mapping[str, str] = field(default_factory=dict)  # where a kernel does not just divide
    says: Mapping[str, object] = field(default_factory=dict)  # in the description, beside `format`
    since: str = SEEN  # the least version of ComfyUI

    def fits(self, spec: LayerSpec) -> bool:
        """Whether layers on these grids can be stored so."""
        return any(_alike(spec.weight, each) for each in self.weights) and any(
            _alike(spec.act, each) for each in self.acts
        )

    def computed(self, spec: LayerSpec) -> LayerSpec:
        """The spec as loader and kernel compute with it."""
        stored = spec.with_stored_scales(self.scale_dtype)
        weight = stored.weight and stored.weight.model_copy(update=self.weight_arithmetic)
        act = stored.act and stored.act.model_copy(update=self.act_arithmetic)
        return stored.model_copy(update={"weight": weight, "act": act})

    def __str__(self) -> str:
        first, granularities = self.weights[0], " or ".join(weight.granularity for weight in self.weights)
        acts = " or ".join(str(act or "float") for act in self.acts)
        size = f" {first.group_size}" if first.group_size else ""
        return f"{first.format.name} weights ({granularities}{size}) with act {acts}"


def _alike(one: TensorSpec | None, other: TensorSpec | None) -> bool:
    if one is None or other is None:
        return one is other
    grid = ("granularity", "group_size", "symmetric", "dynamic")
    return one.format.name == other.format.name and all(getattr(one, name) == getattr(other, name) for name in grid)


def codes_and_scales(rounded: Quantized, dtype: torch.dtype) -> dict[str, LazyTensor]:
    """Codes as they are; float32 scales of the rows (out, 1), or one without dimension."""
    stored: torch.dtype = getattr(torch, rounded.spec.format.dtype)
    scale = rounded.scale.reshape(()) if rounded.spec.granularity == "per_tensor" else rounded.scale
    return {"weight": LazyTensor(stored, rounded.shape, lambda: rounded.stored().cpu()), "weight_scale": kept(scale)}


def int4_rows(rounded: Quantized, dtype: torch.dtype) -> dict[str, LazyTensor]:
    """Two's complement nibbles, the even column in the low one; one float32 scale a row, of one dimension."""
    return {"weight": _nibbles(rounded, lambda codes: codes.view(torch.uint8)),
            "weight_scale": kept(rounded.scale.reshape(-1))}  # fmt: skip


def codebook4(rounded: Quantized, dtype: torch.dtype) -> dict[str, LazyTensor]:
    """Codes of 4 bits, the even column in the low nibble; steps of the groups, scales of the rows, and the levels."""
    fmt: Any = rounded.spec.format
    steps = rounded.zero
    assert steps is not None

    def codes(integers: torch.Tensor) -> torch.Tensor:
        from llmc.numerics.codebook import codes_of  # which needs all of torch

        return codes_of(integers.float(), fmt.table(integers.device), steps.to(integers.device))

    return {
        "weight": _nibbles(rounded, codes),
        "weight_s_rel": kept(steps.to(torch.float8_e4m3fn)),
        "weight_s_channel": kept(rounded.scale.reshape(-1)),
        "weight_codebook": kept(fmt.table(steps.device)),
    }


def awq(rounded: Quantized, dtype: torch.dtype) -> dict[str, LazyTensor]:
    """Codes without a sign, the even column in the low nibble; scales, and the values of the codes in the middle. They
    are exact in bf16, and its kernel computes in their type."""
    assert rounded.zero is not None
    rows, kept_in = rounded.shape[0], torch.float32 if dtype == torch.float32 else torch.bfloat16
    middle = -rounded.zero * rounded.scale
    return {
        "weight": _nibbles(rounded, lambda codes: (codes + 8).view(torch.uint8)),
        "weight_scale": kept(rounded.scale.reshape(rows, -1).to(kept_in)),
        "weight_zeros": kept(middle.to(torch.bfloat16).reshape(rows, -1).to(kept_in)),
    }


def nvfp4(rounded: Quantized, dtype: torch.dtype) -> dict[str, LazyTensor]:
    """The even column in the high nibble; e4m3 scales under one float32 scale of the tensor."""
    assert rounded.whole is not None
    fmt: Any = rounded.spec.format
    rows, columns = rounded.shape

    def codes() -> torch.Tensor:
        bits = float_bits(rounded.stored(), fmt.exponent_bits, fmt.mantissa_bits).cpu()
        return pack_nibbles(bits, low_first=False)

    return {
        "weight": LazyTensor(torch.uint8, (rows, columns // 2), codes),
        "weight_scale": kept(rounded.stored_scales().float()),
        "weight_scale_2": kept(rounded.whole.reshape(())),
    }


def mxfp8(rounded: Quantized, dtype: torch.dtype) -> dict[str, LazyTensor]:
    """e4m3 codes as they are, powers of two."""
    return {**codes_and_scales(rounded, dtype), "weight_scale": kept(rounded.scale_grid())}


def by_group(grid: torch.Tensor) -> torch.Tensor:
    """Groups first, then rows."""
    return grid.T.contiguous()


def swizzled(dtype: str) -> Layout:
    """Scales of one byte in the order in which tensor cores read them."""
    return lambda grid: swizzle_scales(grid.to(getattr(torch, dtype)))


def _nibbles(rounded: Quantized, bits: Layout) -> LazyTensor:
    rows, columns = rounded.shape

    def codes() -> torch.Tensor:
        return pack_nibbles(bits(rounded.stored().cpu()), low_first=True).view(torch.int8)

    return LazyTensor(torch.int8, (rows, columns // 2), codes)


def _grid(name: str, granularity: str, **own: Any) -> TensorSpec:
    return TensorSpec.model_validate({"format": name, "granularity": granularity, **own})


def _fp8(name: str, format_: str) -> Form:
    act = _grid(format_, "per_tensor", dynamic=False)  # without a scale in the file acts are rounded at a scale of 1
    return Form(
        name,
        (_grid(format_, "per_tensor"),),
        (act, None),
        codes_and_scales,
        act_arithmetic={"quotient": "times_reciprocal"},
    )


def _awq(size: int) -> Form:
    weight = _grid("int4", "per_group", group_size=size, symmetric=False)
    layouts = {"weight_scale": by_group, "weight_zeros": by_group}
    arithmetic, says = {"offset_dtype": "bfloat16"}, {"group_size": size}
    return Form("awq_w4a16", (weight,), (None,), awq, layouts, weight_arithmetic=arithmetic, says=says, since=LATER)


INT8_ACT = _grid("int8", "per_token")
NVFP4, MXFP8 = TensorSpec(format="nvfp4"), TensorSpec(format="mxfp8")
FORMS: tuple[Form, ...] = (
    Form(
        "int8_tensorwise", (_grid("int8", "per_channel"), _grid("int8", "per_tensor")), (INT8_ACT, None),
        codes_and_scales, rotation="may",
    ),
    _fp8("float8_e4m3fn", "fp8_e4m3"),
    _fp8("float8_e5m2", "fp8_e5m2"),
    Form(
        "convrot_w4a4", (_grid("int4", "per_channel"),), (_grid("int4", "per_token"),), int4_rows, rotation="must",
        says_whether_rotated=False, multiples=(64, 1), says={"linear_dtype": "int4"},
    ),
    Form(
        "asym_w4a8_int8", (_grid("codebook4", "per_channel"),), (INT8_ACT,), codebook4, rotation="must",
        multiples=(16, 1), scale_dtype="float32", says={"group_size": 16}, since="0.31",
    ),
    *(_awq(size) for size in (32, 64, 128)),
    Form(
        "nvfp4", (NVFP4,), (NVFP4, NVFP4.model_copy(update={"dynamic": False}), None), nvfp4,
        {"weight_scale": swizzled("float8_e4m3fn")}, multiplies_inputs=True, multiples=(32, 32),
        scale_dtype="float32",
    ),
    Form(
        "mxfp8", (MXFP8,), (MXFP8, None), mxfp8, {"weight_scale": swizzled("float8_e8m0fnu")}, multiples=(32, 32)
    ),
)  # fmt: skip


def form_of(spec: LayerSpec) -> Form | None:
    """The form that stores such layers; None if there is none."""
    return next((form for form in FORMS if form.fits(spec)), None)
