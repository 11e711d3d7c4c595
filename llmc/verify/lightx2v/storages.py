"""How LightX2V's schemes lay a linear out in a file, read from its documentation and loader: written down once more,
apart from the code that writes it, so that a mistake there is seen here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llmc.numerics.spec import TensorSpec
from llmc.verify.files import Entry
from llmc.verify.storage import FLOATS, Leaf, Reading, Shape, unpack

SCALAR: tuple[Shape, ...] = ((), (1,))
Leaves = Callable[[int, int], Mapping[str, Leaf]]  # of (outputs, inputs)
Decode = Callable[[Mapping[str, Tensor], int, int], Iterator[Reading]]


@dataclass(frozen=True)
class Storage:
    """What a scheme stores of a linear of n outputs and k inputs."""

    name: str
    dtype: torch.dtype
    shape: Callable[[int, int], Shape]
    leaves: Leaves
    decode: Decode
    act: TensorSpec | None = None  # how the runtime quantizes the input
    multiples: tuple[int, int] = (16, 16)  # of n and k, that the kernels take
    scale_dtype: torch.dtype = torch.bfloat16  # to which the loader casts scales


def ceil_to(size: int, step: int) -> int:
    """The next multiple."""
    return -(-size // step) * step


def whole(n: int, k: int) -> Shape:
    """A code for each element."""
    return (n, k)


def halved(n: int, k: int) -> Shape:
    """Two codes a byte."""
    return (n, k // 2)


def three_quarters(n: int, k: int) -> Shape:
    """Four codes in three bytes."""
    return (n, 3 * k // 4)


def per_row(n: int, k: int) -> Mapping[str, Leaf]:
    """A scale for each output."""
    return {"weight_scale": Leaf(FLOATS, ((n, 1),))}


def per_square(n: int, k: int) -> Mapping[str, Leaf]:
    """A scale for each 128 by 128 elements, in float32: DeepGEMM takes no other."""
    return {"weight_scale": Leaf((torch.float32,), ((-(-n // 128), -(-k // 128)),))}


def per_tensor(n: int, k: int) -> Mapping[str, Leaf]:
    """One scale, and one of the input."""
    return {"weight_scale": Leaf(FLOATS, SCALAR), "input_scale": Leaf(FLOATS, SCALAR)}


def tiled(dtype: torch.dtype, group: int) -> Leaves:
    """A scale for each group of a row, in tiles of 128 rows by 4 groups."""
    return lambda n, k: {"weight_scale": Leaf((dtype,), ((ceil_to(n, 128), ceil_to(-(-k // group), 4)),), scale=False)}


def tiled_under_one(n: int, k: int) -> Mapping[str, Leaf]:
    """Tiles of e4m3 scales, and what stands above them for weight and input."""
    above = {name: Leaf((torch.float32,), SCALAR) for name in ("alpha", "input_global_scale")}
    return {**tiled(torch.float8_e4m3fn, 16)(n, k), **above}


def marlin_leaves(n: int, k: int) -> Mapping[str, Leaf]:
    """Scales by group, inputs first, and the kernel's locks."""
    return {
        "weight_scale": Leaf((torch.float16,), ((k // 128, n),)),
        "weight_workspace": Leaf((torch.int32,), ((n // 128 * 16,),), scale=False),
    }


def read_scaled(tensors: Mapping[str, Tensor], n: int, k: int) -> Iterator[Reading]:
    """Codes times the scale of their row, square or tensor."""
    scale = tensors["weight_scale"].float()
    if scale.numel() > 1 and scale.shape != (n, 1):
        scale = scale.repeat_interleave(128, 0)[:n].repeat_interleave(128, 1)[:, :k]
    weight = tensors["weight"].float() * scale
    yield Reading("", weight)
    if n == k:
        yield Reading("it is transposed: LightX2V transposes it itself", tensors["weight"].float().t() * scale)


def read_blocks(bits: int, group: int) -> Decode:
    """Small floats in packed bits, under scales in tiles."""

    def decode(tensors: Mapping[str, Tensor], n: int, k: int) -> Iterator[Reading]:
        packed, grid = tensors["weight"], tensors["weight_scale"].float()
        above = 1.0
        if "alpha" in tensors:  # alpha = 1 / (that of the input * that of the weight), both as inverses
            above = float(tensors["alpha"].double() * tensors["input_global_scale"].double())
        groups = -(-k // group)
        rows, columns = torch.arange(n)[:, None], torch.arange(groups)[None]
        tile = (rows // 128) * (grid.shape[1] // 4) + columns // 4
        place = ((tile * 32 + rows % 32) * 4 + rows % 128 // 32) * 4 + columns % 4
        in_tiles = (grid.flatten()[place] * above).repeat_interleave(group, 1)[:, :k]
        in_rows = (grid[:n, :groups] * above).repeat_interleave(group, 1)[:, :k]
        codes = unpack(packed, bits)
        yield Reading("", codes * in_tiles)
        yield Reading("its scales are not swizzled: they lie row by row, not in tiles of 128 by 4", codes * in_rows)
        if bits == 4:
            swapped = codes.reshape(n, -1, 2).flip(-1).reshape(n, k)
            yield Reading("its nibbles are swapped: the even column belongs in the low one", swapped * in_tiles)

    return decode


def read_marlin(tensors: Mapping[str, Tensor], n: int, k: int) -> Iterator[Reading]:
    """int4 codes plus 8 in the order of a warp's lanes, 16 inputs by 64 outputs at a time."""
    packed = tensors["weight"].long() & 0xFFFFFFFF
    codes = torch.empty(k, n)
    word = torch.arange(n * 2)[None]
    tile = torch.arange(k // 16)[:, None] * 16
    block, lane, part = word // 128, word % 128 // 4, word % 4
    for nibble in range(8):  # from low to high: which of a pair in bit 2, output half in bit 1, input half in bit 0
        row = tile + lane % 4 * 2 + (nibble >> 2 & 1) + (nibble & 1) * 8
        column = block * 64 + part * 16 + lane // 4 + (nibble >> 1 & 1) * 8
        codes[row, column.expand_as(row)] = ((packed >> 4 * nibble & 0xF) - 8).float()
    scale = tensors["weight_scale"].float().reshape(k // 128, -1, 8, 8).transpose(2, 3).reshape(k // 128, n)
    yield Reading("", (codes * scale.repeat_interleave(128, 0)).t())


E4M3, E8M0, U8 = torch.float8_e4m3fn, torch.float8_e8m0fnu, torch.uint8
INT8_TOKENS = TensorSpec(format="int8", granularity="per_token")
FP8_TOKENS = TensorSpec(format="fp8_e4m3", granularity="per_token")
FP8_GROUPS = TensorSpec(format="fp8_e4m3", granularity="per_group", group_size=128)
FP8_STATIC = TensorSpec(format="fp8_e4m3", granularity="per_tensor", dynamic=False)
MXFP4, MXFP8 = TensorSpec(format="mxfp4"), TensorSpec(format="mxfp8")
NVFP4 = TensorSpec(format="nvfp4", dynamic=False)
STORAGES: Mapping[str, Storage] = {
    storage.name: storage
    for storage in (
        Storage("int8", torch.int8, whole, per_row, read_scaled, INT8_TOKENS),
        Storage("fp8", E4M3, whole, per_row, read_scaled, FP8_TOKENS),
        Storage("fp8-b128", E4M3, whole, per_square, read_scaled, FP8_GROUPS, (64, 128)),
        Storage("fp8-pertensor", E4M3, whole, per_tensor, read_scaled, FP8_STATIC),
        Storage("nvfp4", U8, halved, tiled_under_one, read_blocks(4, 16), NVFP4, (32, 32)),
        Storage("mxfp4", U8, halved, tiled(E8M0, 32), read_blocks(4, 32), MXFP4, (128, 128)),
        Storage("mxfp6", U8, three_quarters, tiled(E8M0, 32), read_blocks(6, 32), MXFP8, (128, 128)),
        Storage("mxfp8", U8, whole, tiled(E8M0, 32), read_blocks(8, 32), MXFP8, (128, 32)),
        Storage("int4-g128-marlin", torch.int32, lambda n, k: (k // 16, n * 2), marlin_leaves, read_marlin,
                multiples=(256, 128), scale_dtype=torch.float16),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Kernel:
    """What one `dit_quant_scheme` does with a storage."""

    storage: str
    arithmetic: Mapping[str, str] | None = field(default_factory=dict)  # of the input's rounding; None: it stays float
    multiples: tuple[int, int] | None = None  # of outputs and inputs, where it takes other sizes


# Triton's int8 kernel truncates, its fp8 kernel and torchao's narrow scales or quotients to bfloat16
KERNELS: Mapping[str, Kernel] = {
    **{f"int8-{name}": Kernel("int8") for name in ("vllm", "q8f", "npu", "tmo", "iluvatar", "vllm-hygon-dcu")},
    "int8-sgl": Kernel("int8", multiples=(8, 16)),
    "int8-triton": Kernel("int8", {"rounding": "toward_zero"}, (1, 1)),
    "int8-torchao": Kernel("int8", {"scale_dtype": "bfloat16", "quotient": "times_reciprocal_in_bf16"}),
    **{f"fp8-{name}": Kernel("fp8") for name in ("vllm", "sgl", "q8f", "musa")},
    "fp8-triton": Kernel("fp8", {"kept_scale_dtype": "bfloat16"}, (1, 1)),
    "fp8-torchao": Kernel("fp8", {"scale_dtype": "bfloat16", "quotient": "divided_in_bf16"}),
    "fp8-intel-xpu": Kernel("fp8", None, (1, 1)),
    "fp8-b128-deepgemm": Kernel("fp8-b128"),
    "mxfp6-mxfp8": Kernel("mxfp6"),
    **{name: Kernel(name) for name in ("fp8-pertensor", "nvfp4", "mxfp4", "mxfp8", "int4-g128-marlin")},
}


def storage_of(scheme: str) -> Storage | None:
    """What a `dit_quant_scheme` reads; None if there is no such scheme."""
    return STORAGES[KERNELS[scheme].storage] if scheme in KERNELS else None


def act_of(scheme: str) -> TensorSpec | None:
    """How the kernel of a scheme quantizes the input; None: not at all."""
    kernel = KERNELS[scheme]
    found = STORAGES[kernel.storage].act
    if found is None or kernel.arithmetic is None:
        return None
    stored = {} if found.dynamic else {"scale_dtype": "bfloat16"}  # to which the loader casts a calibrated scale
    return found.model_copy(update={**stored, **kernel.arithmetic})


def recognized(weight: Entry, scale: Entry | None, n: int, k: int) -> Storage | None:
    """The storage that a weight is in, by types and shapes alone; where only the scale does not fit, the likeliest."""
    fits = [each for each in STORAGES.values() if (each.dtype, each.shape(n, k)) == (weight.dtype, weight.shape)]
    leaves = {storage.name: storage.leaves(n, k)["weight_scale"] for storage in fits}
    by_dtype = [s for s in fits if scale is not None and scale.dtype in leaves[s.name].dtypes] or fits
    by_shape = [s for s in by_dtype if scale is not None and scale.shape in leaves[s.name].shapes] or by_dtype
    return by_shape[0] if by_shape else None
