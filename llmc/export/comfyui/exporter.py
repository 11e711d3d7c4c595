"""ComfyUI: one file in the model's original names, int8 or fp8, each quantized layer with a description of its own.

Its kernels quantize int8 activations per token by themselves, fp8 ones with the scale of the file: without one they are
rounded as they are, at a scale of 1. It can multiply no input, so that smoothing must fold into the file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field

from llmc.convert.writer import write_checkpoint
from llmc.export.base import ORIGINAL, Exporter, FinishedPart, LazyTensor, kept
from llmc.export.card import inline_code
from llmc.export.folding import absorbed_tensors, bias_tensor, transformed_tensors
from llmc.export.fused import original_tensors
from llmc.numerics.spec import LayerSpec, ScaleDtype, TensorSpec

if TYPE_CHECKING:
    from llmc.layers.linear import QuantLinear

# what `format` says -> how its kernels quantize activations: format, granularity, symmetric, dynamic
ACTS = {
    "int8_tensorwise": ("int8", "per_token", True, True),
    "float8_e4m3fn": ("fp8_e4m3", "per_tensor", True, False),
}
ALLOWED = (
    "int8 weights (per_channel or per_tensor) with act int8 per_token, or fp8_e4m3 weights (per_tensor) with act "
    "fp8_e4m3 per_tensor static, all symmetric; or such weights with float act"
)


class ComfyUI(Exporter):
    """One file for ComfyUI, in the model's original names."""

    name: Literal["comfyui"] = "comfyui"
    comfy_format: Literal["comfy_quant", "scaled_fp8"] = Field(
        "comfy_quant",
        description="comfy_quant: each layer says how it is quantized; scaled_fp8: the older form, fp8 alone",
    )
    switch: ClassVar[str] = "save_comfyui"
    subfolder: ClassVar[str] = "comfyui"
    accepts: ClassVar[frozenset[str]] = frozenset({"scale", "static"})
    scale_dtype: ClassVar[ScaleDtype] = "bfloat16"  # where a weight is dequantized, its scale is rounded to that type

    @property
    def names(self) -> str:
        return ORIGINAL

    def problems(self, spec: LayerSpec, left: frozenset[str]) -> list[str]:
        problems = super().problems(spec, left)
        weight, act = spec.weight, spec.act
        if spec == LayerSpec():
            return problems
        stored = None if weight is None else stored_format(weight)
        if stored is None or not (act is None or _form(act) == ACTS[stored]):
            problems.append(f"it takes {ALLOWED}; found {spec}")
        elif self.comfy_format == "scaled_fp8" and stored != "float8_e4m3fn":
            problems.append(f"scaled_fp8 holds fp8_e4m3 weights alone; found {spec}; write `comfy_format: comfy_quant`")
        return problems

    def scheme_of(self, spec: LayerSpec) -> str | None:
        """The older form says once for the whole file whether activations are quantized."""
        if self.comfy_format == "comfy_quant" or spec.weight is None:
            return None
        return f"act {spec.act or 'float'}"

    def write(self, part: FinishedPart, folder: Path) -> Path:
        tensors = absorbed_tensors(part)
        for name, layer in part.layers.items():
            tensors |= layer_tensors(name, layer, self.comfy_format)
        tensors = original_tensors(part.original, tensors)
        if self.comfy_format == "scaled_fp8":
            tensors["scaled_fp8"] = kept(marker(part))
        write_checkpoint(folder, tensors, "single", part.provenance, stem=stem_of(part))
        return folder

    def about(self, parts: Sequence[FinishedPart]) -> dict[str, str]:
        return {"scheme": self.comfy_format}

    def usage(self, parts: Sequence[FinishedPart]) -> str:
        files = " and ".join(inline_code(f"{stem_of(part)}.safetensors") for part in parts)
        return (
            f"Put {files} into `models/diffusion_models/` of ComfyUI. Encoders and autoencoder are those of the "
            "original model.\n"
        )


def layer_tensors(name: str, layer: QuantLinear, comfy_format: str) -> dict[str, LazyTensor]:
    """What is read of one linear; scales are float32, that of a whole tensor has no dimension."""
    rounded, static = layer.state.rounded, layer.state.static
    if rounded is None:
        return transformed_tensors(name, layer)
    dtype: torch.dtype = getattr(torch, rounded.spec.format.dtype)
    scale = rounded.scale.reshape(()) if rounded.spec.granularity == "per_tensor" else rounded.scale
    tensors = {f"{name}.weight": LazyTensor(dtype, rounded.shape, lambda: rounded.stored().cpu())}
    tensors |= bias_tensor(name, layer)
    new = comfy_format == "comfy_quant"
    tensors[f"{name}.{'weight_scale' if new else 'scale_weight'}"] = kept(scale)
    if static is not None and static[0] is not None:
        tensors[f"{name}.{'input_scale' if new else 'scale_input'}"] = kept(static[0].reshape(()))
    if new:
        tensors[f"{name}.comfy_quant"] = kept(description(layer.spec))
    return tensors


def stored_format(weight: TensorSpec) -> str | None:
    """What ComfyUI calls weights on that grid; None if it has no name for them."""
    match _form(weight)[:3]:
        case "int8", "per_channel" | "per_tensor", True:
            return "int8_tensorwise"
        case "fp8_e4m3", "per_tensor", True:
            return "float8_e4m3fn"
    return None


def description(spec: LayerSpec) -> torch.Tensor:
    """How a layer is quantized: JSON as the bytes of a tensor."""
    assert spec.weight is not None
    says: dict[str, object] = {"format": stored_format(spec.weight)}
    if spec.act is None:
        says["full_precision_matrix_mult"] = True
    return torch.tensor(list(json.dumps(says).encode()), dtype=torch.uint8)


def marker(part: FinishedPart) -> torch.Tensor:
    """What makes a file one of the older form: with two elements, weights are dequantized before they multiply."""
    weights_only = all(layer.spec.act is None for layer in part.layers.values())
    return torch.zeros(2 if weights_only else 0, dtype=torch.float8_e4m3fn)


def stem_of(part: FinishedPart) -> str:
    """The name of a network's file: ComfyUI lists files by name, so that model and formats stand in it."""
    formats = {layer.spec.weight.format.name for layer in part.layers.values() if layer.spec.weight is not None}
    return "-".join([part.source.resolve().name, part.name, *(sorted(formats) or ["float"])])


def _form(grid: TensorSpec) -> tuple[str, str, bool, bool]:
    return grid.format.name, grid.granularity, grid.symmetric, grid.dynamic
