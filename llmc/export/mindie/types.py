"""Every type of MindIE's linears: the grids that it is for, what is stored of it, on which chips and how it computes.

A new type is one row of `TYPES`, and a function that makes its tensors if none here does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import torch

from llmc.errors import ExportError
from llmc.export.part import LazyTensor, kept
from llmc.layers.integer_sums import bias_in_units, sum_scale
from llmc.numerics.packing import float_bits, pack_nibbles
from llmc.numerics.spec import LayerSpec, ScaleDtype, SumScale, TensorSpec

if TYPE_CHECKING:
    from llmc.export.mindie.names import RuntimeLinear

Version = Literal["2.3", 3, "2026-07"]
Soc = Literal["a2", "a3", "a5"]
RunDtype = Literal["bf16", "fp16"]
TypeName = Literal[
    "W8A8_DYNAMIC", "W8A8", "W8A8_TIMESTEP", "W4A4_DYNAMIC", "W8A16", "W4A16",
    "W8A8_MXFP8", "W4A4_MXFP4", "W4A4_MXFP4_DUALSCALE",
]  # fmt: skip
READ_BY_2_3 = frozenset({"W8A8_DYNAMIC", "W8A8", "W8A8_TIMESTEP", "W8A16", "W4A16"})
INT32_MAX = 2**31 - 1


def as_named(version: object) -> object:
    """2.3 is easily taken for a number, and "3" for none."""
    return {"2.3": "2.3", "3": 3}.get(str(version), version)


@dataclass(frozen=True)
class Runtime:
    """What will read the files, and compute in which type."""

    version: Version = 3
    soc: Soc = "a2"
    dtype: RunDtype = "bf16"

    @property
    def scale_dtype(self) -> ScaleDtype:
        """To which its loader casts scales of weights, and multipliers of inputs."""
        return "bfloat16" if self.dtype == "bf16" else "float16"

    @property
    def input_scale_dtype(self) -> ScaleDtype:
        """To which its loader casts calibrated scales of inputs."""
        return self.scale_dtype if self.dtype == "bf16" or self.version == "2.3" else "float32"

    @property
    def sums(self) -> SumScale:
        """What is kept of the scale of int32 sums: in half precision the hardware reads 19 bits of it."""
        return "float32" if self.dtype == "bf16" else "fp19"


Tensors: TypeAlias = "Callable[[RuntimeLinear, Runtime], dict[str, LazyTensor]]"


@dataclass(frozen=True)
class QuantType:
    """One type string of the description."""

    weight: TensorSpec
    act: TensorSpec | None  # None: the kernel multiplies float activations
    tensors: Tensors  # what is stored of a linear but its bias and its smoothing, by what follows its name
    symmetric: bool | None = True  # of act; None: both can be stored
    chips: frozenset[Soc] = frozenset({"a2", "a3", "a5"})
    multiplies: bool = True  # the input by a stored vector, before it is quantized
    bias: Literal["any", "needed", "lost"] = "any"  # what its class in MindIE makes of one
    multiples: Mapping[Version, tuple[int, int]] = field(default_factory=dict)  # of in and out features
    exponent: Literal["floor"] | None = None  # how kernels choose the scales of activations that are powers of two
    two_levels: bool = False  # whether activations are rounded to the run's type between two levels of scales
    per_step: bool = False  # whether each denoising step has an activation scale

    def fits(self, spec: LayerSpec) -> bool:
        """Whether layers on these grids are of this type."""
        if spec.weight is None or not _alike(spec.weight, self.weight) or not spec.weight.symmetric:
            return False
        if spec.act is None or self.act is None:
            return spec.act is self.act
        return _alike(spec.act, self.act) and self.symmetric in (None, spec.act.symmetric)

    def computed(self, spec: LayerSpec, runtime: Runtime) -> LayerSpec:
        """The spec as loader and kernel compute with it."""
        assert spec.weight is not None
        act = spec.act
        # a static layer's file has the product of both scales alone, and in bf16 that of two bf16 numbers is exact
        static = act is not None and not act.dynamic
        weight = spec.weight
        if weight.format.scale_dtype is None:
            weight = weight.model_copy(update={"scale_dtype": runtime.scale_dtype})
        if act is None:
            return LayerSpec(weight=weight)
        if static:
            act = act.model_copy(update={"scale_dtype": runtime.input_scale_dtype, "mirrored": False})
            return LayerSpec(weight=weight, act=act, sums=runtime.sums)
        changes: dict[str, str] = {} if self.exponent is None else {"exponent": self.exponent}
        if self.two_levels:
            changes["between"] = runtime.scale_dtype
        own_format = act.format.model_copy(update=changes)
        return LayerSpec(weight=weight, act=act.model_copy(update={"format": own_format}))

    def __str__(self) -> str:
        return f"weight {self.weight} with act {self.act or 'float'}"


def _alike(one: TensorSpec, other: TensorSpec) -> bool:
    return _form(one) == _form(other)


def _form(grid: TensorSpec) -> tuple[str, str, int | None, bool]:
    return grid.format.name, grid.granularity, grid.group_size, grid.dynamic


def integers(linear: RuntimeLinear, runtime: Runtime) -> dict[str, LazyTensor]:
    """int8 codes (those of int4 too: the reader packs them), and a scale of each output channel."""
    rows = linear.out_features
    return _codes(linear) | {
        "weight_scale": LazyTensor(torch.float32, (rows, 1), linear.scales),
        # no version reads it, but readers of the format may expect it
        "weight_offset": LazyTensor(torch.float32, (rows, 1), lambda: torch.zeros(rows, 1)),
    }


def weights_alone(linear: RuntimeLinear, runtime: Runtime) -> dict[str, LazyTensor]:
    """int8 codes and a scale of each output channel, without offsets."""
    return {leaf: tensor for leaf, tensor in integers(linear, runtime).items() if leaf != "weight_offset"}


def static(linear: RuntimeLinear, runtime: Runtime) -> dict[str, LazyTensor]:
    """int8 codes, and what turns int32 sums into outputs."""
    scale, zero = linear.static()[:2]
    assert scale is not None
    offset = torch.zeros(1) if zero is None else zero.float().cpu().reshape(1)
    return _codes(linear) | {
        "input_scale": kept(scale.float().reshape(1)),
        "input_offset": kept(offset),
        **_sums(linear, runtime, scale.reshape(1), offset),
    }


def static_steps(linear: RuntimeLinear, runtime: Runtime) -> dict[str, LazyTensor]:
    """A static grid for each denoising step, and what the steps before them need, that measure theirs."""
    grids = linear.steps()
    scale = grids.scale.float().cpu()
    offset = torch.zeros_like(scale) if grids.zero is None else grids.zero.float().cpu()
    return integers(linear, runtime) | {
        "input_scale": kept(scale[:, None]),
        "input_offset": kept(offset[:, None]),
        **_sums(linear, runtime, scale, offset),
    }


def mxfp8(linear: RuntimeLinear, runtime: Runtime) -> dict[str, LazyTensor]:
    """e4m3 codes, and the exponents of their scales."""
    shape = (linear.out_features, linear.in_features)
    return {"weight": LazyTensor(torch.float8_e4m3fn, shape, linear.codes), **_exponents(linear)}


def mxfp4(linear: RuntimeLinear, runtime: Runtime) -> dict[str, LazyTensor]:
    """fp4 codes, one a byte in e4m3 for the version that packs them itself, else two a byte, the first one low."""
    if runtime.version == 3:
        return mxfp8(linear, runtime)

    def packed() -> torch.Tensor:
        return pack_nibbles(float_bits(linear.codes(), 2, 1), low_first=True)

    shape = (linear.out_features, linear.in_features // 2)
    return {"weight": LazyTensor(torch.uint8, shape, packed), **_exponents(linear)}


def dual_scale(linear: RuntimeLinear, runtime: Runtime) -> dict[str, LazyTensor]:
    """4-bit codes with the scales of every 32, and the upper scales of every 512."""
    shape = (linear.out_features, linear.in_features // 512, 1)
    return mxfp4(linear, runtime) | {"weight_dual_scale": LazyTensor(torch.float32, shape, linear.upper_scales)}


def _codes(linear: RuntimeLinear) -> dict[str, LazyTensor]:
    return {"weight": LazyTensor(torch.int8, (linear.out_features, linear.in_features), linear.codes)}


def _exponents(linear: RuntimeLinear) -> dict[str, LazyTensor]:
    """The bits of e8m0: the power of two plus 127."""

    def exponents() -> torch.Tensor:
        return linear.stored_scales().view(torch.uint8)

    return {"weight_scale": LazyTensor(torch.uint8, (linear.out_features, linear.in_features // 32), exponents)}


def _sums(linear: RuntimeLinear, runtime: Runtime, scale: torch.Tensor, offset: torch.Tensor) -> dict[str, LazyTensor]:
    """`deq_scale` and `quant_bias` of each output channel, and of each step where there are steps."""
    shape = (len(scale), linear.out_features) if linear.first.state.steps else (linear.out_features,)

    def units() -> torch.Tensor:
        return sum_scale(scale.cpu().reshape(-1, 1), linear.scales().reshape(1, -1), runtime.sums).reshape(shape)

    def deq_scale() -> torch.Tensor:
        return units() if runtime.sums == "float32" else units().view(torch.int32).long()

    def quant_bias() -> torch.Tensor:
        bias = linear.bias()
        given = torch.zeros(shape, dtype=torch.float64) if bias is None else bias_in_units(bias, units())
        # the offset of every input, through the weights: taken out of the sums here, since the kernel leaves it in
        shifted = given - (offset.double().reshape(-1, 1) * linear.codes().sum(1, dtype=torch.float64)).reshape(shape)
        if (worst := shifted.abs().max()) > INT32_MAX:
            raise ExportError(
                f"the bias of {linear.name} is {worst:.3g} units of its integer sums, and int32 holds {INT32_MAX}: a "
                "row of its weight is almost zero beside its bias; measure the scales of its inputs at run time, with "
                "a rule for that layer"
            )
        return shifted.to(torch.int32)

    stored = torch.float32 if runtime.sums == "float32" else torch.int64
    return {
        "deq_scale": LazyTensor(stored, shape, deq_scale),
        "quant_bias": LazyTensor(torch.int32, shape, quant_bias),
    }


def _int(bits: int, granularity: str, **own: Any) -> TensorSpec:
    return TensorSpec.model_validate({"format": f"int{bits}", "granularity": granularity, **own})


def _mx(name: str) -> TensorSpec:
    return TensorSpec.model_validate({"format": name})


A5: frozenset[Soc] = frozenset({"a5"})
INT4_CHIPS: frozenset[Soc] = frozenset({"a2", "a3"})
PAIRED_GROUPS: Mapping[Version, tuple[int, int]] = {3: (64, 1), "2026-07": (32, 1)}  # the latter pads an odd one

TYPES: Mapping[TypeName, QuantType] = {
    "W8A8_DYNAMIC": QuantType(_int(8, "per_channel"), _int(8, "per_token"), integers),
    "W8A8": QuantType(_int(8, "per_channel"), _int(8, "per_tensor", dynamic=False), static, symmetric=None),
    "W8A8_TIMESTEP": QuantType(
        _int(8, "per_channel"), _int(8, "per_tensor", dynamic=False), static_steps, symmetric=None, per_step=True
    ),
    "W8A16": QuantType(_int(8, "per_channel"), None, weights_alone, multiplies=False),
    "W4A16": QuantType(
        _int(4, "per_channel"), None, weights_alone, multiplies=False,
        multiples=dict.fromkeys(get_args(Version), (1, 8)),
    ),
    "W4A4_DYNAMIC": QuantType(
        _int(4, "per_channel"), _int(4, "per_token"), integers, chips=INT4_CHIPS, multiplies=False, bias="lost",
        multiples={3: (8, 8), "2026-07": (8, 8)},
    ),
    "W8A8_MXFP8": QuantType(
        _mx("mxfp8"), _mx("mxfp8"), mxfp8, chips=A5, bias="needed", multiples=PAIRED_GROUPS, exponent="floor"
    ),
    "W4A4_MXFP4": QuantType(
        _mx("mxfp4"), _mx("mxfp4"), mxfp4, chips=A5, bias="needed", multiples=PAIRED_GROUPS, exponent="floor"
    ),
    "W4A4_MXFP4_DUALSCALE": QuantType(
        _mx("mxfp4dual"), _mx("mxfp4dual"), dual_scale, chips=A5, bias="needed", exponent="floor", two_levels=True,
        multiples={3: (512, 1), "2026-07": (512, 1)},
    ),
}  # fmt: skip


def type_of(spec: LayerSpec, steps: bool = False) -> TypeName | None:
    """The type of layers on these grids, whose activation scales may be those of single steps."""
    per_step = steps and spec.act is not None and not spec.act.dynamic
    return next((name for name, known in TYPES.items() if known.fits(spec) and known.per_step == per_step), None)


def layer_problem(name: TypeName, layer: torch.nn.Linear) -> str | None:
    """What is wrong with a layer of that type, beside its sizes; None if nothing is."""
    bias = TYPES[name].bias
    if bias == "lost" and layer.bias is not None:
        return f"has a bias, which {name} in MindIE leaves out; give it another grid by a rule"
    if bias == "needed" and layer.bias is None:
        return f"has no bias, without which {name} in MindIE stops; give it another grid by a rule"
    if layer.out_features == 1:
        return "has one output, whose scale MindIE cannot read; leave it float by a rule"
    return None
