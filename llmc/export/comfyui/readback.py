"""The written file, read as ComfyUI reads it: each weight in the basis of the original network, beside the judged one.

A rotation by another matrix or in another order, nibbles the wrong way round or a key that is missing are silent there:
the video is noise. So nothing that made the file is asked here, but for bits and tiles.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llmc.errors import ExportError
from llmc.export.comfyui.names import original_layers, swapped_layers
from llmc.layers.transforms import Rotate
from llmc.numerics.packing import float_values, unpack_nibbles, unswizzle_scales

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from llmc.convert.safetensors_file import LazyTensor
    from llmc.export.part import FinishedPart
    from llmc.layers.linear import QuantLinear

FAR = 1e-4  # of a weight's norm: more than float arithmetic leaves, far less than any mistake does


def check_written(file: Path, part: FinishedPart) -> None:
    """Refuse a file of which a layer, read back, is farther from the float model than what was judged."""
    from llmc.convert.safetensors_file import read_tensors

    tensors, _ = read_tensors(file)
    swapped = swapped_layers(part)
    for module, layers in original_layers(part).items():
        found = read_weight(tensors, module)
        if module in swapped:
            found = torch.cat(found.chunk(2)[::-1])
        rows = [layer.out_features for layer in layers]
        for layer, weight in zip(layers, found.split(rows), strict=True):  # type: ignore[no-untyped-call]
            if not agrees(layer, weight):
                raise ExportError(
                    f"{file.name}: {module}, read back, is not the weight that was judged; this is a fault of the "
                    "export: keep the run's folder and report it"
                )


def agrees(layer: QuantLinear, weight: Tensor) -> bool:
    """Whether a weight without its rotation is as far from the float one as the judged one is in its own basis, which
    an orthogonal matrix does not change."""
    judged = (layer.rounded_weight() - layer.float_weight()).norm()
    with without_rotation(layer):
        wanted = layer.float_weight()
    found = (weight.to(wanted.device) - wanted).norm()
    return bool((found - judged).abs() <= FAR * wanted.norm())


@contextmanager
def without_rotation(layer: QuantLinear) -> Iterator[None]:
    """The layer with an input that is not rotated at run time."""
    before = layer.state
    kept = tuple(each for each in before.transforms if each.upstream or not isinstance(each, Rotate))
    layer.state = replace(before, transforms=kept)
    try:
        yield
    finally:
        layer.state = before


def read_weight(tensors: Mapping[str, LazyTensor], module: str) -> Tensor:
    """The float32 weight that a layer of the file stands for, by what the file says of it."""
    leaves = {name.removeprefix(f"{module}."): tensor for name, tensor in tensors.items()
              if name.rpartition(".")[0] == module}  # fmt: skip
    if "scaled_fp8" in tensors:
        return leaves["weight"].make().float() * leaves["scale_weight"].make()
    if "comfy_quant" not in leaves:
        raise ExportError(f"{module} was written without its description; report this fault of the export")
    says: dict[str, Any] = json.loads(bytes(leaves.pop("comfy_quant").make().tolist()))
    weight = DECODERS[says["format"]]({leaf: tensor.make() for leaf, tensor in leaves.items()})
    rotates = says["format"] in ("convrot_w4a4", "asym_w4a8_int8") or says.get("convrot")
    return unrotated(weight, says["convrot_groupsize"]) if rotates else weight


def unrotated(weight: Tensor, size: int) -> Tensor:
    """Without the rotation of ConvRot, whose matrix is its own inverse."""
    four = torch.tensor([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]]) / 2
    matrix = four
    while len(matrix) < size:
        matrix = torch.kron(matrix, four)
    return (weight.reshape(-1, size) @ matrix).reshape(weight.shape)


def _plain(leaves: Mapping[str, Tensor]) -> Tensor:
    return leaves["weight"].float() * leaves["weight_scale"]


def _int4(leaves: Mapping[str, Tensor]) -> Tensor:
    codes = unpack_nibbles(leaves["weight"].view(torch.uint8), low_first=True).to(torch.int8)
    return ((codes ^ 8) - 8).float() * leaves["weight_scale"][:, None]


def _codebook(leaves: Mapping[str, Tensor]) -> Tensor:
    codes = unpack_nibbles(leaves["weight"].view(torch.uint8), low_first=True)
    groups = leaves["weight_codebook"][codes.int()].reshape(*leaves["weight_s_rel"].shape, -1)
    integers = (groups * leaves["weight_s_rel"].float()[..., None]).clamp(-127, 127).round()
    return integers.reshape(codes.shape) * leaves["weight_s_channel"][:, None]


def _awq(leaves: Mapping[str, Tensor]) -> Tensor:
    codes = unpack_nibbles(leaves["weight"].view(torch.uint8), low_first=True).float() - 8
    scale, middle = (leaves[leaf].float().T[..., None] for leaf in ("weight_scale", "weight_zeros"))
    return (codes.reshape(*scale.shape[:2], -1) * scale + middle).reshape(codes.shape)


def _nvfp4(leaves: Mapping[str, Tensor]) -> Tensor:
    codes = float_values(unpack_nibbles(leaves["weight"], low_first=False), exponent_bits=2, mantissa_bits=1)
    scale = unswizzle_scales(leaves["weight_scale"], len(codes), codes.shape[1] // 16).float()
    return codes * (scale * leaves["weight_scale_2"]).repeat_interleave(16, 1)


def _mxfp8(leaves: Mapping[str, Tensor]) -> Tensor:
    codes = leaves["weight"].float()
    scale = unswizzle_scales(leaves["weight_scale"], len(codes), codes.shape[1] // 32).float()
    return codes * scale.repeat_interleave(32, 1)


DECODERS = {
    "int8_tensorwise": _plain,
    "float8_e4m3fn": _plain,
    "float8_e5m2": _plain,
    "convrot_w4a4": _int4,
    "asym_w4a8_int8": _codebook,
    "awq_w4a16": _awq,
    "nvfp4": _nvfp4,
    "mxfp8": _mxfp8,
}
