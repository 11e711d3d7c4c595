"""What a file for ComfyUI holds of one quantized linear, in the newer forms and in the older one."""

from __future__ import annotations

import json
from collections.abc import Container
from typing import TYPE_CHECKING

import torch

from llmc.errors import ExportError
from llmc.export.comfyui.forms import Form, codes_and_scales, form_of
from llmc.export.folding import bias_tensor, left_multiplier, transformed_tensors
from llmc.export.part import LazyTensor, kept
from llmc.layers.transforms import Rotate

if TYPE_CHECKING:
    from llmc.layers.linear import QuantLinear


def layer_tensors(name: str, layer: QuantLinear, absorbed: Container[str]) -> dict[str, LazyTensor]:
    """What is read of one linear; `absorbed` names the tensors that smoothing is folded into."""
    rounded, form = layer.state.rounded, form_of(layer.spec)
    if rounded is None or form is None:
        return transformed_tensors(name, layer)
    found = form.tensors(rounded, layer.dtype)
    tensors = {f"{name}.weight": found.pop("weight")}
    tensors |= bias_tensor(name, layer)
    tensors |= {f"{name}.{leaf}": tensor for leaf, tensor in found.items()}
    if (scale := input_scale(layer)) is not None:
        tensors[f"{name}.input_scale"] = kept(scale)
    if (multiplier := left_multiplier(layer, absorbed)) is not None:
        if not form.multiplies_inputs:
            raise ExportError(f"{name} is smoothed by what nothing absorbs, which {form.format} cannot multiply by; "
                              "put smoothing before Hadamard")  # fmt: skip
        tensors[f"{name}.pre_quant_scale"] = kept(multiplier)
    tensors[f"{name}.comfy_quant"] = kept(description(name, layer, form))
    return tensors


def older_tensors(name: str, layer: QuantLinear) -> dict[str, LazyTensor]:
    """The tensors of a layer in the older form, with one marker for the whole file; fp8 alone."""
    rounded = layer.state.rounded
    if rounded is None:
        return transformed_tensors(name, layer)
    found = codes_and_scales(rounded, layer.dtype)
    tensors = {f"{name}.weight": found["weight"]}
    tensors |= bias_tensor(name, layer)
    tensors[f"{name}.scale_weight"] = found["weight_scale"]
    if (scale := input_scale(layer)) is not None:
        tensors[f"{name}.scale_input"] = kept(scale)
    return tensors


def input_scale(layer: QuantLinear) -> torch.Tensor | None:
    """The calibrated scale of the input, that of the whole tensor where a format has two levels."""
    static = layer.state.static
    if static is None:
        return None
    scale = static[-1] if len(static) == 3 else static[0]
    return scale.reshape(())


def description(name: str, layer: QuantLinear, form: Form) -> torch.Tensor:
    """How a layer is quantized: JSON as the bytes of a tensor."""
    says: dict[str, object] = {"format": form.format, **form.says}
    if (size := rotated_by(name, layer)) is not None:
        says |= ({"convrot": True} if form.says_whether_rotated else {}) | {"convrot_groupsize": size}
    elif form.rotation == "must":
        raise ExportError(f"{name} is not rotated, and kernels of {form.format} always rotate inputs")
    if layer.spec.act is None and None in form.acts and len(form.acts) > 1:
        says["full_precision_matrix_mult"] = True
    return torch.tensor(list(json.dumps(says).encode()), dtype=torch.uint8)


def rotated_by(name: str, layer: QuantLinear) -> int | None:
    """How many channels of its input are mixed at run time; None if none are."""
    rotations = [each for each in layer.state.transforms if isinstance(each, Rotate) and not each.upstream]
    if not rotations:
        return None
    if len(rotations) > 1 or not rotations[0].regular or layer.state.transforms[-1] is not rotations[0]:
        raise ExportError(f"{name} is rotated otherwise than once, last, by a regular matrix, which ComfyUI cannot")
    return rotations[0].size
