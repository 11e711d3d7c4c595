"""How MindIE's types lay a linear out in a file, read from its loader and from what msModelSlim writes: written down
once more, apart from the code that writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from llmc.numerics.spec import TensorSpec
from llmc.verify.storage import FLOATS, Leaf, Reading, Shape, unpack

GROUP, OUTER = 32, 512  # values of a row under one power of two, and under one scale of two levels
BYTE, FP8, INT8 = torch.uint8, torch.float8_e4m3fn, torch.int8


@dataclass(frozen=True)
class Sizes:
    """Of one linear, and of the run: what leaves follow from."""

    n: int  # outputs
    k: int  # inputs
    steps: int  # rows of the calibrated grids; 0 where there are none
    fp16: bool  # whether the network runs in float16, else in bfloat16

    def deq_scale(self, shape: Shape) -> Leaf:
        """The product of both scales; float16 takes its bits as the operator's own integer."""
        return Leaf((torch.int64 if self.fp16 else torch.float32,), (shape,))


Leaves = Callable[[Sizes], Mapping[str, Leaf]]


def int8_rows(of: Sizes) -> dict[str, Leaf]:
    """Codes, and a scale for each output."""
    return {"weight": Leaf((INT8,), ((of.n, of.k),)), "weight_scale": Leaf(FLOATS, ((of.n, 1),))}


def static_rows(of: Sizes) -> dict[str, Leaf]:
    """Codes, the grid of the input, and what turns sums of products into outputs."""
    return {
        "weight": Leaf((INT8,), ((of.n, of.k),)), "quant_bias": Leaf((torch.int32,), ((of.n,),)),
        "input_scale": Leaf(FLOATS, ((1,),)), "input_offset": Leaf((*FLOATS, INT8), ((1,),)),
        "deq_scale": of.deq_scale((of.n,)),
    }  # fmt: skip


def step_rows(of: Sizes) -> dict[str, Leaf]:
    """Both, with a row for each step of the schedule."""
    t = of.steps
    return int8_rows(of) | {
        "quant_bias": Leaf((torch.int32,), ((t, of.n),)), "deq_scale": of.deq_scale((t, of.n)),
        "input_scale": Leaf(FLOATS, ((t, 1),)), "input_offset": Leaf((*FLOATS, INT8), ((t, 1),)),
    }  # fmt: skip


def powers(of: Sizes) -> Leaf:
    """An exponent plus 127 for each group of a row."""
    return Leaf((BYTE,), ((of.n, of.k // GROUP),))


def mxfp8(of: Sizes) -> dict[str, Leaf]:
    """e4m3 under powers of two."""
    return {"weight": Leaf((FP8,), ((of.n, of.k),)), "weight_scale": powers(of)}


def mxfp4_bytes(of: Sizes) -> dict[str, Leaf]:
    """Two e2m1 a byte under powers of two."""
    return {"weight": Leaf((BYTE,), ((of.n, of.k // 2),)), "weight_scale": powers(of)}


def dual(of: Sizes) -> dict[str, Leaf]:
    """Two e2m1 a byte under powers of two, and those under a scale for each 512."""
    return mxfp4_bytes(of) | {"weight_dual_scale": Leaf((torch.float32,), ((of.n, -(-of.k // OUTER), 1),))}


@dataclass(frozen=True)
class Type:
    """What a type string stores, and what of a linear its kernel takes."""

    leaves: Leaves
    smooths: bool = True  # whether the input is multiplied by what `div.mul_scale` holds
    needs_bias: frozenset[str] = frozenset()  # generations that fail on a linear without bias
    takes_bias: bool = True
    in_features: Mapping[str, int] | None = None  # generation -> what they must be a multiple of
    out_features: int = 1  # the same, of every generation
    bits: int = 8
    a5_only: bool = False
    since_3: bool = False  # unknown to MindIE 2.3
    optional: tuple[str, ...] = ()  # what is written beside and read by nobody


BOTH = frozenset({"3", "2026-07"})
IN_PAIRS = {"3": 64, "2026-07": 32}  # the newer one fills up an odd number of groups
OFFSET = ("weight_offset",)
GRIDS = ("W8A8", "W8A8_TIMESTEP")  # types with calibrated grids of the input
TYPES: Mapping[str, Type] = {
    "W8A8": Type(static_rows, optional=("weight_scale", "weight_offset")),
    "W8A8_DYNAMIC": Type(int8_rows, optional=OFFSET),
    "W8A8_TIMESTEP": Type(step_rows, optional=OFFSET),
    "W8A16": Type(int8_rows, smooths=False, optional=OFFSET),
    "W4A16": Type(int8_rows, smooths=False, out_features=8, bits=4, optional=OFFSET),
    "W4A4_DYNAMIC": Type(
        int8_rows, smooths=False, takes_bias=False, out_features=8, bits=4, since_3=True, optional=OFFSET
    ),
    "W8A8_MXFP8": Type(mxfp8, needs_bias=BOTH, in_features=IN_PAIRS, a5_only=True, since_3=True),
    "W4A4_MXFP4": Type(
        mxfp4_bytes, needs_bias=frozenset({"3"}), in_features=IN_PAIRS, bits=4, a5_only=True, since_3=True
    ),
    "W4A4_MXFP4_DUALSCALE": Type(
        dual, needs_bias=BOTH, in_features=dict.fromkeys(BOTH, 64), bits=4, a5_only=True, since_3=True
    ),
}


def act_spec(kind: str, fp16: bool, generation: str | None) -> TensorSpec | None:
    """How the runtime quantizes the input of a linear of that type."""
    dtype = "float16" if fp16 else "bfloat16"
    if kind in GRIDS:  # codes reach -128 as well, and a float16 run of the newer ones keeps scales in float32
        kept = "float32" if fp16 and generation != "2.3" else dtype
        return TensorSpec(format="int8", granularity="per_tensor", symmetric=False, dynamic=False, scale_dtype=kept,
                          mirrored=False)  # fmt: skip
    if kind in ("W8A8_DYNAMIC", "W4A4_DYNAMIC"):
        return TensorSpec(format="int8" if kind == "W8A8_DYNAMIC" else "int4", granularity="per_token")
    name = {"W8A8_MXFP8": "mxfp8", "W4A4_MXFP4": "mxfp4", "W4A4_MXFP4_DUALSCALE": "mxfp4dual"}.get(kind)
    if name is None:
        return None
    between = {"between": dtype} if name == "mxfp4dual" else {}  # what its kernel keeps between the two levels
    return TensorSpec.model_validate({"format": {"name": name, "exponent": "floor", **between}})


def leaves_of(kind: str, of: Sizes, generation: str | None, stored: torch.dtype | None) -> dict[str, Leaf]:
    """What a linear of a type has, in the payload that a generation casts: 3 takes e2m1 values in e4m3, one a byte,
    and the newer one takes two a byte, too."""
    leaves = dict(TYPES[kind].leaves(of))
    if leaves["weight"].dtypes == (BYTE,) and (generation == "3" or stored == FP8):
        leaves["weight"] = Leaf((FP8,), ((of.n, of.k),))
    return leaves


def beside(name: str, of: Sizes) -> Leaf:
    """What is written for other readers, and never read by MindIE."""
    return Leaf(FLOATS, ((of.n, 1),), scale=name == "weight_scale")


def readings(kind: str, tensors: Mapping[str, Tensor], of: Sizes) -> Iterator[Reading]:
    """The weight as the runtime computes with it, and as it would be without a fault that has a name."""
    codes = tensors["weight"]
    if kind == "W8A8":
        yield Reading("", codes.float() * weight_scale_of(tensors, of))
    elif TYPES[kind].leaves in (int8_rows, step_rows):
        yield Reading("", codes.float() * tensors["weight_scale"].float())
    else:
        scale = tensors["weight_scale"].float().sub(127).exp2().repeat_interleave(GROUP, 1)
        if "weight_dual_scale" in tensors:
            outer = tensors["weight_dual_scale"].squeeze(-1).repeat_interleave(OUTER, 1)
            scale = scale * outer[:, : of.k]
        values = unpack(codes, 4) if codes.dtype == BYTE else codes.float()
        yield Reading("", values * scale)
        if codes.dtype == BYTE:
            swapped = values.reshape(of.n, -1, 2).flip(-1).reshape(of.n, of.k)
            yield Reading("its nibbles are swapped: the even column belongs in the low one", swapped * scale)
    if codes.dtype == INT8 and of.n == of.k and "weight_scale" in tensors:
        yield Reading("it is transposed", codes.t().float() * tensors["weight_scale"].float())


def weight_scale_of(tensors: Mapping[str, Tensor], of: Sizes) -> Tensor:
    """The scale (n, 1) of a statically quantized weight, which is kept in a product with the input's alone. In a
    run in bfloat16 both are exact in that type, and so is their product in float32; in float16 it has lost bits."""
    if "weight_scale" in tensors:
        return tensors["weight_scale"].float()
    quotient = deq_values(tensors["deq_scale"]) / tensors["input_scale"].float()
    return (quotient if of.fp16 else quotient.bfloat16().float()).reshape(-1, 1)


def deq_values(stored: Tensor) -> Tensor:
    """In float32; an integer holds its bits in the lower half."""
    return (stored & 0xFFFFFFFF).to(torch.int32).view(torch.float32) if stored.dtype == torch.int64 else stored.float()
