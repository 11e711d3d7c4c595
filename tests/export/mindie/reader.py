"""MindIE-SD's reader and its kernels, written down from what they are documented to do; nothing of llmc is used."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]
FP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
GRIDS = {"e2m1": torch.cat([FP4, -FP4])}


def read(folder: Path, quant_type: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """What `quantize` opens: the description, and the one file that it finds by the type."""
    from safetensors.torch import load_file

    description = folder / f"quant_model_description_{quant_type}.json"
    says = json.loads(description.read_text(encoding="utf-8"))
    weights = folder / f"quant_model_weight_{says['model_quant_type'].lower()}.safetensors"
    for file in (description, weights):
        assert file.stat().st_mode & 0o777 & ~0o640 == 0 and not file.is_symlink()
    return says, load_file(weights)


def type_of(says: Mapping[str, str], module: str) -> str | None:
    """How a module is replaced; None if it stays float."""
    for key in (f"{module}.linear.weight", f"{module}.weight"):
        if key in says:
            return None if says[key] == "FLOAT" else says[key]
    return None


def linear(
    tensors: Tensors,
    module: str,
    quant_type: str,
    dtype: torch.dtype,
    version: object = 3,
    static_step: int | None = None,
) -> Callable[[Tensor], Tensor]:
    """The layer that MindIE puts in its place."""
    mul = tensors.get(f"{module}.div.mul_scale")
    prefix = f"{module}.linear" if mul is not None else module
    own = {leaf: tensors[f"{prefix}.{leaf}"] for leaf in leaves(tensors, prefix)}

    def scaled(x: Tensor) -> Tensor:
        return x if mul is None else x * mul.to(dtype).to(x.dtype)

    if quant_type in ("W8A16", "W4A16"):
        assert mul is None, "its class would not multiply"
        weight = own["weight"].float() * own["weight_scale"].to(dtype).float()
        return lambda x: x.float() @ weight.T + own["bias"].float()
    if quant_type == "W8A8" or static_step is not None:
        row = () if static_step is None else (static_step,)
        unit, bias = own["deq_scale"][row], own["quant_bias"][row]
        if dtype == torch.float16:
            assert unit.dtype == torch.int64
            unit = ((unit.int() >> 13) << 13).view(torch.float32)  # of which the hardware reads 19 bits
        scale, offset = own["input_scale"][row], own["input_offset"][row]
        kept_scale = scale.to(torch.float32 if dtype == torch.float16 else dtype).float()

        def static(x: Tensor) -> Tensor:
            codes = (scaled(x).float() / kept_scale + offset.to(torch.int8)).round().clamp(-128, 127)
            sums = codes.double() @ own["weight"].double().T
            return ((sums + bias) * unit).float()

        return static
    if quant_type in ("W8A8_DYNAMIC", "W8A8_TIMESTEP", "W4A4_DYNAMIC"):
        largest = 7 if quant_type == "W4A4_DYNAMIC" else 127
        weight_scale = own["weight_scale"].squeeze().to(dtype).float()

        def dynamic(x: Tensor) -> Tensor:
            x = scaled(x).float()
            scale = x.abs().amax(-1, keepdim=True) / largest
            sums = (x / scale).round().double() @ own["weight"].double().T
            y = sums.float() * scale * weight_scale
            return y if quant_type == "W4A4_DYNAMIC" else y + own["bias"].to(dtype).float()

        return dynamic
    codes = own["weight"] if version == 3 or quant_type == "W8A8_MXFP8" else unpacked(own["weight"])
    assert codes.dtype == torch.float8_e4m3fn
    weight = codes.float() * (2.0 ** (own["weight_scale"].double() - 127)).float().repeat_interleave(32, 1)
    if quant_type == "W4A4_MXFP4_DUALSCALE":
        weight = weight * own["weight_dual_scale"].squeeze(-1).repeat_interleave(512, 1)
    act = {"W8A8_MXFP8": mxfp8, "W4A4_MXFP4": mxfp4, "W4A4_MXFP4_DUALSCALE": dual}[quant_type]
    return lambda x: act(scaled(x).float(), dtype) @ weight.T + own["bias"]


def leaves(tensors: Tensors, prefix: str) -> list[str]:
    """What follows a module's name."""
    return [name.removeprefix(f"{prefix}.") for name in tensors if name.rpartition(".")[0] == prefix]


def unpacked(packed: Tensor) -> Tensor:
    """Two codes a byte, the first one low."""
    pairs = torch.stack([packed & 15, packed >> 4], -1).flatten(1)
    return GRIDS["e2m1"][pairs.int()].to(torch.float8_e4m3fn)


def mxfp8(x: Tensor, dtype: torch.dtype) -> Tensor:
    """npu_dynamic_mx_quant to e4m3, and back."""
    groups = x.reshape(*x.shape[:-1], -1, 32)
    scale = 2.0 ** (groups.abs().amax(-1, keepdim=True).log2().floor() - 8)
    return ((groups / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale).reshape(x.shape)


def mxfp4(x: Tensor, dtype: torch.dtype) -> Tensor:
    """npu_dynamic_mx_quant to e2m1, and back."""
    groups = x.reshape(*x.shape[:-1], -1, 32)
    scale = 2.0 ** (groups.abs().amax(-1, keepdim=True).log2().floor() - 2)
    return (nearest_fp4(groups / scale) * scale).reshape(x.shape)


def dual(x: Tensor, dtype: torch.dtype) -> Tensor:
    """npu_dynamic_dual_level_mx_quant, and back."""
    groups = x.reshape(*x.shape[:-1], -1, 512)
    upper = groups.abs().amax(-1, keepdim=True) / 6
    return (mxfp4((groups / upper).to(dtype).float(), dtype) * upper).reshape(x.shape)


def nearest_fp4(x: Tensor) -> Tensor:
    """Ties go to the code whose last bit is 0."""
    distance = (x.abs().clamp(max=6)[..., None] - FP4).abs()
    tie = (distance == distance.amin(-1, keepdim=True)) & (torch.arange(8) % 2 == 0)
    index = torch.where(tie.any(-1), tie.int().argmax(-1), distance.argmin(-1))
    return FP4[index] * x.sign()
