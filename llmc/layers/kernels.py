"""True arithmetic on codes: the int8 and fp8 products of the device at hand, which fake quantization only simulates.

As in a runtime's kernel, sums are taken over codes and scaled in float32 afterwards. Nothing here knows how a layer
came to its codes, so that the same functions run a layer of a finished recipe and a file that was read back.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from llmc.errors import UnsupportedSpec
from llmc.numerics.quantize import at_once, common_grid, equal_parts, quantize
from llmc.numerics.spec import TensorSpec

INT8_SIZES = (32, 8, 8)  # CUDA's int8 product wants more than 16 rows, and inner and outer sizes in eights
MULTIPLIED = 1 << 24  # values of the wider side at a time: enough rows to keep it busy, and little room
FP8_SIZE = 16  # CUDA's fp8 product wants inner and outer sizes in sixteens
FP8_CAPABILITY = (8, 9)  # the first CUDA device that has one
INT8, FP8, FLOAT32 = "torch._int_mm", "torch._scaled_mm", "float32 products of the codes, which are exact"


def arithmetic(weight: Tensor) -> str:
    """How `multiply` will work with this weight, where it lies."""
    if weight.dtype == torch.int8:
        return INT8 if _has_int8_product(weight) else FLOAT32
    return FP8 if _has_fp8_product(weight) else FLOAT32


def multiply(act: Tensor, weight: Tensor) -> Tensor:
    """The sums of act (tokens, in) times weight (out, in), both codes as they are stored, in float32."""
    if act.dtype != weight.dtype:
        raise UnsupportedSpec(
            f"real arithmetic multiplies codes of one type; found {act.dtype} and {weight.dtype}; "
            "quantize act in the format of the weight"
        )
    way = arithmetic(weight)
    if way == INT8:
        return _int8_sums(act, weight).float()
    if way == FP8:
        one = torch.ones((), device=act.device)
        return torch._scaled_mm(act.contiguous(), weight.t(), one, one, out_dtype=torch.float32)
    return act.float() @ weight.float().t()


class StoredLinear(nn.Module):
    """A linear of the tensors that a file holds: codes (out, in), one scale per row or for all, and the bias.

    `act` says how the input is quantized; where that is static, `input_scale` is its scale.
    """

    def __init__(
        self, weight: Tensor, scale: Tensor, bias: Tensor | None, act: TensorSpec, input_scale: Tensor | None = None
    ) -> None:
        super().__init__()
        self.act = act
        self.weight, self.scale, self.bias, self.input_scale = weight, scale.float().reshape(-1), bias, input_scale

    def forward(self, x: Tensor) -> Tensor:
        scale = None if self.input_scale is None else self.input_scale.float().reshape(1, 1)
        y = real_product(x, self.act, scale, self.weight, self.scale)
        return y if self.bias is None else y + self.bias.to(y.dtype)


def real_product(x: Tensor, act: TensorSpec, act_scale: Tensor | None, weight: Tensor, scale: Tensor) -> Tensor:
    """x (..., in) quantized as `act` says, times weight (out, in) with its scales, in the type of x."""
    rows = x.reshape(-1, x.shape[-1])
    grid = common_grid([rows], act) if act_scale is None else (act_scale, None)
    width = max(weight.shape)  # on a CPU a part fits its cache
    count = at_once(len(rows), width, x.device) if x.is_cpu else multiplied_at_once(len(rows), width)
    act, wanted = act.of_input(x.dtype), fitted(weight)
    y = x.new_empty(len(rows), len(weight))
    for first in range(0, len(rows), max(1, count)):
        part = slice(first, first + count)
        codes = quantize(rows[part].float(), act, *grid)
        sums = multiply(codes.stored(), wanted)[:, : len(weight)]
        y[part] = sums.mul_(codes.scale).mul_(scale.reshape(-1))
    return y.reshape(*x.shape[:-1], -1)


def multiplied_at_once(rows: int, width: int) -> int:
    """How many of so many rows to multiply at a time, the wider side being so wide."""
    return equal_parts(rows, width, MULTIPLIED)


def fitted(weight: Tensor) -> Tensor:
    """Codes (out, in) in the sizes that CUDA's int8 product asks for, once for all rows: zeros add nothing."""
    if weight.dtype != torch.int8 or weight.device.type != "cuda":
        return weight
    _, inner, outer = INT8_SIZES
    return _padded(weight, rows=-weight.shape[0] % outer, columns=-weight.shape[1] % inner).contiguous()


def _int8_sums(act: Tensor, weight: Tensor) -> Tensor:
    """int32 sums."""
    if weight.device.type == "cpu":
        return torch._int_mm(act, weight.t())
    if weight.device.type != "cuda":
        raise UnsupportedSpec(
            f"real arithmetic in int8 runs on cpu and cuda; the model is on {weight.device.type}; "
            "leave real_quant out of eval_pos, or set base.device: cpu"
        )
    (rows, width), outputs = act.shape, weight.shape[0]
    weight = fitted(weight)
    act = _padded(act, rows=max(0, INT8_SIZES[0] - rows), columns=weight.shape[1] - width)
    return torch._int_mm(act.contiguous(), weight.t())[:rows, :outputs]


def _padded(codes: Tensor, rows: int, columns: int) -> Tensor:
    """With zeros after them; where none are wanted nothing is copied, as `pad` would."""
    return pad(codes, (0, columns, 0, rows)) if rows or columns else codes


def _has_int8_product(weight: Tensor) -> bool:
    return weight.device.type != "cpu" or _adds_up_in_32_bits()


@cache
def _adds_up_in_32_bits() -> bool:
    """Whether this CPU does: one without an instruction for products of four bytes adds up pairs in 16 bits, which
    overflow, and nobody tells."""
    most = torch.full((64, 64), 127, dtype=torch.int8)
    return bool((torch._int_mm(most, most) == 64 * 127**2).all())


def _has_fp8_product(weight: Tensor) -> bool:
    if weight.dtype != torch.float8_e4m3fn:
        return False
    if weight.device.type == "cuda":
        aligned = all(size % FP8_SIZE == 0 for size in weight.shape)
        return aligned and torch.cuda.get_device_capability(weight.device) >= FP8_CAPABILITY
    return weight.device.type == "cpu" and _multiplies_fp8()


@cache
def _multiplies_fp8() -> bool:
    """Whether this CPU does, at least in emulation."""
    some, one = torch.zeros(16, 16, dtype=torch.float8_e4m3fn), torch.ones(())
    try:
        torch._scaled_mm(some, some.t(), one, one, out_dtype=torch.float32)
    except RuntimeError:
        return False
    return True
