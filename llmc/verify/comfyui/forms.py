"""How ComfyUI's forms lay a linear out in a file, read from its loader and kernels: written down once more, apart from
the code that writes it, so that a mistake there is seen here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmc.verify.storage import Leaf, Reading

Says = Mapping[str, Any]  # what a layer's description holds
SCALAR = ((), (1,))
FLOAT = (torch.float32,)
GROUPS = (256, 64, 16)  # input channels that a rotation mixes, as readers have kernels for
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


@dataclass(frozen=True)
class Form:
    """What one `format` means. `decode` gives the weight that inputs are multiplied by, the right one first."""

    dtype: torch.dtype
    packed: int  # codes in an element of `weight`
    leaves: Callable[[int, int, Says], Mapping[str, Leaf]]  # of outputs, inputs
    decode: Callable[[Mapping[str, Tensor], Says], Iterator[Reading]]
    rotates: bool = False  # whether its kernel always does
    keys: tuple[str, ...] = ()  # that its description needs

    def weight(self, n: int, k: int) -> Leaf:
        """The codes."""
        return Leaf((self.dtype,), ((n, k // self.packed),))


def rotation(says: Says) -> int | None:
    """How many input channels a layer's kernel mixes; None if it rotates nothing."""
    form = FORMS.get(str(says.get("format")))
    turns = form is not None and (form.rotates or says.get("convrot") is True)
    return int(says.get("convrot_groupsize", 256)) if turns else None


def description_problems(says: Says, inputs: int) -> Iterator[str]:
    """What is wrong with a description, whatever the tensors are."""
    form = FORMS.get(str(says.get("format")))
    if form is None:
        yield f"its format is {says.get('format')!r}; known are {', '.join(FORMS)}"
        return
    for key in form.keys:
        if key not in says:
            yield f"it has no {key}, which readers of {says['format']} ask for"
    if (size := rotation(says)) is not None and (size not in GROUPS or inputs % size):
        yield f"it is rotated {size} at a time; readers know 256, 64 and 16, and one of them must divide {inputs}"


def readings(tensors: Mapping[str, Tensor], says: Says) -> Iterator[Reading]:
    """The weight in the basis of the original network, by the description first, then as mistakes would have it."""
    form, size = FORMS[says["format"]], rotation(says)
    right, *faults = form.decode(tensors, says)
    yield Reading("", turned(right.weight, size))
    yield from (Reading(fault.fault, turned(fault.weight, size)) for fault in faults)
    columns = right.weight.shape[1]
    for other in (None, *(group for group in GROUPS if columns % group == 0)):
        if other != size:
            found = "it is not rotated" if other is None else f"it is rotated {other} at a time"
            yield Reading(f"{found}, and its description says otherwise", turned(right.weight, other))
    if size is not None:
        other_basis = (right.weight.reshape(-1, size) @ sylvester(size)).reshape(right.weight.shape)
        yield Reading("it is rotated by Sylvester's matrix", other_basis)


def turned(weight: Tensor, size: int | None) -> Tensor:
    """Without ConvRot's rotation, which undoes itself."""
    if size is None:
        return weight
    return (weight.reshape(-1, size) @ regular(size)).reshape(weight.shape)


def regular(size: int) -> Tensor:
    """H4 times itself, by Kronecker's product, its rows of one length."""
    four = torch.tensor([[1.0, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]])
    return _power(four, size) / math.sqrt(size)


def sylvester(size: int) -> Tensor:
    """The other matrix of that size."""
    return _power(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), size) / math.sqrt(size)


def _power(matrix: Tensor, size: int) -> Tensor:
    found = matrix
    while len(found) < size:
        found = torch.kron(found, matrix)
    return found


def nibbles(packed: Tensor, low_first: bool) -> Tensor:
    """Two codes of 4 bits a byte, 0 to 15."""
    bits = packed.contiguous().view(torch.uint8).int()
    low, high = bits % 16, bits // 16
    return torch.stack((low, high) if low_first else (high, low), -1).flatten(-2)


def unswizzled(tiles: Tensor, rows: int, columns: int) -> Tensor:
    """One-byte scales out of the order of tensor cores: row r, column c lie in tile (r / 128, c / 4), at place
    16 (r % 32) + 4 (r % 128 / 32) + c % 4 of it."""
    r, c = torch.arange(rows)[:, None], torch.arange(columns)[None]
    place = ((r // 128) * (tiles.shape[1] // 4) + c // 4) * 512 + (r % 32) * 16 + (r % 128 // 32) * 4 + c % 4
    flat = tiles.contiguous().view(torch.uint8).flatten()
    return flat[place].view(tiles.dtype)


def _up(size: int, step: int) -> int:
    return -(-size // step) * step


def _rows(n: int, k: int, says: Says) -> Mapping[str, Leaf]:
    return {"weight_scale": Leaf(FLOAT, ((n, 1), *SCALAR))}


def _tensor(n: int, k: int, says: Says) -> Mapping[str, Leaf]:
    acts = {} if says.get("full_precision_matrix_mult") else {"input_scale": Leaf(FLOAT, SCALAR)}
    return {"weight_scale": Leaf(FLOAT, SCALAR), **acts}


def _int4_rows(n: int, k: int, says: Says) -> Mapping[str, Leaf]:
    return {"weight_scale": Leaf(FLOAT, ((n,),))}


def _steps(n: int, k: int, says: Says) -> Mapping[str, Leaf]:
    steps = Leaf((torch.float8_e4m3fn, *FLOAT), ((n, k // int(says.get("group_size", 16))),), scale=False)
    return {"weight_s_rel": steps, "weight_s_channel": Leaf(FLOAT, ((n,),), scale=False),
            "weight_codebook": Leaf(FLOAT, ((16,),), scale=False)}  # fmt: skip


def _by_group(n: int, k: int, says: Says) -> Mapping[str, Leaf]:
    shape = ((k // int(says.get("group_size", 64)), n),)
    dtypes = (torch.bfloat16, *FLOAT)
    return {"weight_scale": Leaf(dtypes, shape), "weight_zeros": Leaf(dtypes, shape, scale=False)}


def _nvfp4_leaves(n: int, k: int, says: Says) -> Mapping[str, Leaf]:
    shape = ((_up(n, 128), _up(k // 16, 4)),)
    return {
        "weight_scale": Leaf((torch.float8_e4m3fn,), shape, scale=False),
        "weight_scale_2": Leaf(FLOAT, SCALAR, scale=False),
    }


def _mxfp8_leaves(n: int, k: int, says: Says) -> Mapping[str, Leaf]:
    shape = ((_up(n, 128), _up(k // 32, 4)),)
    return {"weight_scale": Leaf((torch.float8_e8m0fnu, torch.uint8), shape, scale=False)}


def _plain(tensors: Mapping[str, Tensor], says: Says) -> Iterator[Reading]:
    codes, scale = tensors["weight"].float(), tensors["weight_scale"].float()
    yield Reading("", codes * scale)
    if codes.shape[0] == codes.shape[1]:
        yield Reading("it is transposed", codes.t() * scale)


def _int4(tensors: Mapping[str, Tensor], says: Says) -> Iterator[Reading]:
    scale = tensors["weight_scale"].float()[:, None]
    for fault, low_first in (("", True), ("its nibbles are the other way round", False)):
        codes = nibbles(tensors["weight"], low_first)
        yield Reading(fault, (codes - 16 * (codes > 7)).float() * scale)  # two's complement
    yield Reading("its codes count from the lowest", (nibbles(tensors["weight"], True) - 8).float() * scale)


def _levels(tensors: Mapping[str, Tensor], says: Says) -> Iterator[Reading]:
    steps, scale = tensors["weight_s_rel"].float()[..., None], tensors["weight_s_channel"].float()[:, None]
    for fault, low_first in (("", True), ("its nibbles are the other way round", False)):
        codes = nibbles(tensors["weight"], low_first)
        groups = tensors["weight_codebook"].float()[codes].reshape(*steps.shape[:2], -1)
        yield Reading(fault, (groups * steps).clamp(-127, 127).round().reshape(codes.shape) * scale)


def _awq(tensors: Mapping[str, Tensor], says: Says) -> Iterator[Reading]:
    scale, middle = (tensors[leaf].float().t()[..., None] for leaf in ("weight_scale", "weight_zeros"))
    for fault, low_first in (("", True), ("its nibbles are the other way round", False)):
        codes = nibbles(tensors["weight"], low_first).float() - 8
        groups = codes.reshape(*scale.shape[:2], -1)
        yield Reading(fault, ((groups + middle / scale) * scale).reshape(codes.shape))


def _nvfp4(tensors: Mapping[str, Tensor], says: Says) -> Iterator[Reading]:
    values = torch.tensor([*E2M1, *(-value for value in E2M1)])
    n, k = tensors["weight"].shape[0], tensors["weight"].shape[1] * 2
    right = unswizzled(tensors["weight_scale"], n, k // 16).float() * tensors["weight_scale_2"]
    flat = tensors["weight_scale"][:n, : k // 16].float() * tensors["weight_scale_2"]
    ways = {"": (False, right), "its nibbles are the other way round": (True, right),
            "its scales are not swizzled": (False, flat)}  # fmt: skip
    for fault, (low_first, scale) in ways.items():
        yield Reading(fault, values[nibbles(tensors["weight"], low_first)] * scale.repeat_interleave(16, 1))


def _mxfp8(tensors: Mapping[str, Tensor], says: Says) -> Iterator[Reading]:
    codes, grid = tensors["weight"].float(), tensors["weight_scale"].view(torch.float8_e8m0fnu)
    n, groups = codes.shape[0], codes.shape[1] // 32
    for fault, scale in (("", unswizzled(grid, n, groups)), ("its scales are not swizzled", grid[:n, :groups])):
        yield Reading(fault, codes * scale.float().repeat_interleave(32, 1))


FORMS: Mapping[str, Form] = {
    "int8_tensorwise": Form(torch.int8, 1, _rows, _plain),
    "float8_e4m3fn": Form(torch.float8_e4m3fn, 1, _tensor, _plain),
    "float8_e5m2": Form(torch.float8_e5m2, 1, _tensor, _plain),
    "convrot_w4a4": Form(torch.int8, 2, _int4_rows, _int4, rotates=True, keys=("convrot_groupsize", "linear_dtype")),
    "asym_w4a8_int8": Form(
        torch.int8, 2, _steps, _levels, rotates=True, keys=("group_size", "convrot", "convrot_groupsize")
    ),
    "awq_w4a16": Form(torch.int8, 2, _by_group, _awq, keys=("group_size",)),
    "nvfp4": Form(torch.uint8, 2, _nvfp4_leaves, _nvfp4),
    "mxfp8": Form(torch.float8_e4m3fn, 1, _mxfp8_leaves, _mxfp8),
}
