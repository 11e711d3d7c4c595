"""Tensors and networks small enough to convert in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

KINDS = ("t2v", "i2v", "flf2v", "vace")


@dataclass(frozen=True)
class Made:
    """A tensor that is made when it is written."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    make: Callable[[], torch.Tensor]


def lazy(tensor: torch.Tensor) -> Made:
    """A tensor that is there already."""
    return Made(tensor.dtype, tuple(tensor.shape), lambda: tensor)


def saved(
    folder: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None, name: str = "lora"
) -> Path:
    """A file of these tensors."""
    path = folder / f"{name}.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata)
    return path


def tiny_wan(kind: str) -> Any:
    """A Wan transformer of two blocks of width 24."""
    from diffusers import WanTransformer3DModel, WanVACETransformer3DModel

    sizes: dict[str, Any] = {
        "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "num_layers": 2,
        "text_dim": 8, "freq_dim": 8, "ffn_dim": 16,
    }  # fmt: skip
    image = {"in_channels": 9, "image_dim": 10, "added_kv_proj_dim": 24}
    torch.manual_seed(0)
    match kind:
        case "t2v":
            return WanTransformer3DModel(**sizes)
        case "i2v":
            return WanTransformer3DModel(**sizes | image)
        case "flf2v":
            return WanTransformer3DModel(**sizes | image, pos_embed_seq_len=514)
        case _:
            return WanVACETransformer3DModel(**sizes, vace_layers=[0], vace_in_channels=6)
