"""Every network that the converter knows, at tiny size: its model type, and how it is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.convert.tiny import KINDS, tiny_wan


def animate() -> Any:
    from diffusers import WanAnimateTransformer3DModel

    return WanAnimateTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=12, latent_channels=4, out_channels=4, num_layers=2,
        text_dim=8, freq_dim=8, ffn_dim=16, image_dim=10, added_kv_proj_dim=24, inject_face_latents_blocks=1,
        motion_encoder_channel_sizes={str(2**power): 8 for power in range(2, 10)}, motion_encoder_size=512,
        motion_style_dim=16, motion_dim=4, motion_encoder_dim=16, face_encoder_hidden_dim=16, face_encoder_num_heads=2,
    )  # fmt: skip


def hunyuan() -> Any:
    from diffusers import HunyuanVideoTransformer3DModel

    return HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=2, num_single_layers=2,
        num_refiner_layers=2, text_embed_dim=16, pooled_projection_dim=8, rope_axes_dim=(2, 4, 4),
    )  # fmt: skip


def hunyuan_15() -> Any:
    from diffusers import HunyuanVideo15Transformer3DModel

    return HunyuanVideo15Transformer3DModel(
        in_channels=9, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=2, num_refiner_layers=2,
        text_embed_dim=16, text_embed_2_dim=12, image_embed_dim=8, rope_axes_dim=(2, 4, 4), use_meanflow=True,
    )  # fmt: skip


def qwen() -> Any:
    from diffusers import QwenImageTransformer2DModel

    return QwenImageTransformer2DModel(
        num_layers=2, attention_head_dim=8, num_attention_heads=2, in_channels=4, joint_attention_dim=8,
        axes_dims_rope=(2, 2, 4),
    )  # fmt: skip


def umt5() -> Any:
    from transformers import UMT5Config, UMT5EncoderModel

    return UMT5EncoderModel(UMT5Config(vocab_size=32, d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2))


def clip(with_projection: bool = False) -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4,
        projection_dim=6,
    )  # fmt: skip
    return (CLIPVisionModelWithProjection if with_projection else CLIPVisionModel)(config)


FAMILIES: dict[str, tuple[str, Callable[[], Any]]] = {
    **{kind: ("wan_dit", lambda kind=kind: tiny_wan(kind)) for kind in KINDS},
    "animate": ("wan_dit", animate),
    "hunyuan": ("hunyuan_dit", hunyuan),
    "hunyuan 1.5": ("hunyuan_dit", hunyuan_15),
    "qwen": ("qwen_image_dit", qwen),
    "umt5": ("wan_t5", umt5),
    "clip": ("wan_clip", clip),
    "clip with projection": ("wan_clip", lambda: clip(with_projection=True)),
}


def state(family: str) -> dict[str, Tensor]:
    """The state dict of a family, with a value of its own in every element."""
    tensors = {name: torch.randn(tensor.shape) for name, tensor in FAMILIES[family][1]().state_dict().items()}
    if "encoder.embed_tokens.weight" in tensors:  # the same tensor twice
        tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"].clone()
    return tensors


def quantized(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The linears of all blocks as codes with one scale per output channel, and a static scale for what they read."""
    result = dict(tensors)
    for name, weight in tensors.items():
        in_block = any(part.isdecimal() for part in name.split(".")) and not name.startswith("motion_encoder.")
        if in_block and weight.dim() == 2 and name.endswith(".weight") and "relative" not in name:
            result[name] = weight.mul(20).to(dtype)
            result[f"{name}_scale"] = torch.rand(len(weight), 1)
            result[name.replace(".weight", ".input_scale")] = torch.tensor(0.25)
    return result
