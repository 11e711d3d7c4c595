"""Encoders in the names and shapes of Wan's own release, from and to those of transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from llmc.convert.rename import Renamer
from llmc.convert.safetensors_file import LazyTensor
from llmc.models.base import Renames
from llmc.models.encoders import CLIP_VISION_ORIGINAL, UMT5_ORIGINAL

FUSED, APART = "self_attn.to_qkv", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
# a bare parameter there has leading dimensions of 1
LEADING = {"embeddings.class_embedding": 2, "embeddings.position_embedding.weight": 1}


@dataclass(frozen=True)
class Original:
    """How Wan's own release keeps an encoder; `sign` begins a name that only it has, `unread` what no encoder reads."""

    renames: Renames
    sign: str
    unread: tuple[str, ...] = ()


ORIGINALS: Mapping[str, Original] = {
    "UMT5EncoderModel": Original(UMT5_ORIGINAL, "token_embedding."),
    "CLIPVisionModel": Original(CLIP_VISION_ORIGINAL, "visual.", ("textual.", "visual.head", "log_scale")),
}


@dataclass(frozen=True)
class Derived:
    """A tensor that is made of others when it is written."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    make: Callable[[], torch.Tensor]


def to_original(class_name: str, tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """transformers' tensors of an encoder as Wan's release has them: q, k and v of CLIP are one linear there."""
    found: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        q, k, v = (name.replace(APART[0], part) for part in APART)
        if APART[0] in name:
            found[name.replace(APART[0], FUSED)] = _joined([tensors[part] for part in (q, k, v)])
        elif not any(part in name for part in APART):
            found[name] = _reshaped(tensor, (*(1,) * LEADING.get(name, 0), *tensor.shape))
    names = Renamer(ORIGINALS[class_name].renames).forward_all(found)
    return {names[name]: tensor for name, tensor in found.items()}


def from_original(class_name: str, tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The inverse of `to_original`; what only other models of the release read is left out."""
    original = ORIGINALS[class_name]
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith(original.unread)}
    found: dict[str, LazyTensor] = {}
    for theirs, name in Renamer(original.renames).backward_all(own).items():
        tensor = own[theirs]
        if FUSED in name:
            parts = zip(APART, _split(tensor, len(APART)), strict=True)
            found |= {name.replace(FUSED, part): third for part, third in parts}
        else:
            found[name] = _reshaped(tensor, tensor.shape[LEADING.get(name, 0) :])
    return found


def _joined(tensors: list[LazyTensor]) -> Derived:
    rows = sum(tensor.shape[0] for tensor in tensors)
    shape = (rows, *tensors[0].shape[1:])
    return Derived(tensors[0].dtype, shape, lambda: torch.cat([tensor.make() for tensor in tensors]))


def _split(tensor: LazyTensor, count: int) -> list[Derived]:
    rows = tensor.shape[0] // count
    shape = (rows, *tensor.shape[1:])
    return [Derived(tensor.dtype, shape, partial(_slice, tensor, i * rows, (i + 1) * rows)) for i in range(count)]


def _slice(tensor: LazyTensor, first: int, last: int) -> torch.Tensor:
    return tensor.make()[first:last]


def _reshaped(tensor: LazyTensor, shape: tuple[int, ...]) -> LazyTensor:
    if shape == tensor.shape:
        return tensor
    return Derived(tensor.dtype, shape, lambda: tensor.make().reshape(shape))
