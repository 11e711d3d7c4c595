"""Wan pipelines at tiny size: 2 blocks of width 64, an autoencoder that compresses 8x8x4 (TI2V: 16x16x4)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from llmc.models.samples import Sampling
from tests.tiny_pipelines.common import Tiny, made_once, umt5


@made_once
def save_wan_t2v(folder: Path) -> None:
    """Wan2.1 text-to-video."""
    from diffusers import WanPipeline

    torch.manual_seed(0)
    WanPipeline(transformer=_transformer(), **_rest()).save_pretrained(folder)


@made_once
def save_wan_i2v(folder: Path, image_encoder: bool = True, layers: int = 2, width: int = 64) -> None:
    """Wan2.1 image-to-video; some kernels work in tiles that want it wider."""
    from diffusers import WanImageToVideoPipeline

    torch.manual_seed(0)
    image = {"image_dim": 32, "added_kv_proj_dim": width} if image_encoder else {}
    sizes = {"num_layers": layers, "attention_head_dim": width // 4, "ffn_dim": 2 * width}
    transformer = _transformer(in_channels=36, **sizes, **image)
    encoder = _image_encoder() if image_encoder else {"image_encoder": None, "image_processor": None}
    WanImageToVideoPipeline(transformer=transformer, **_rest(), **encoder).save_pretrained(folder)


@made_once
def save_wan_flf2v(folder: Path) -> None:
    """Wan2.1 between two frames: each image makes 17 tokens, which are told apart by their positions."""
    from diffusers import WanImageToVideoPipeline

    torch.manual_seed(0)
    transformer = _transformer(in_channels=36, image_dim=32, added_kv_proj_dim=64, pos_embed_seq_len=34)
    torch.nn.init.normal_(transformer.condition_embedder.image_embedder.pos_embed)
    WanImageToVideoPipeline(transformer=transformer, **_rest(), **_image_encoder()).save_pretrained(folder)


@made_once
def save_wan_vace(folder: Path) -> None:
    """Wan2.1 VACE: three blocks, and two that carry the condition to the first and the last of them."""
    from diffusers import WanVACEPipeline, WanVACETransformer3DModel

    torch.manual_seed(0)
    transformer = _transformer(WanVACETransformer3DModel, num_layers=3, vace_layers=[0, 2], vace_in_channels=96)
    WanVACEPipeline(transformer=transformer, **_rest()).save_pretrained(folder)


@made_once
def save_wan22(folder: Path, image: bool) -> None:
    """Wan2.2 with two experts; the first step of two is above the boundary, the second below."""
    from diffusers import WanImageToVideoPipeline, WanPipeline

    torch.manual_seed(0)
    kind = WanImageToVideoPipeline if image else WanPipeline
    experts = {name: _transformer(in_channels=36 if image else 16) for name in ("transformer", "transformer_2")}
    kind(**experts, **_rest(), boundary_ratio=0.875).save_pretrained(folder)


@made_once
def save_wan22_ti2v(folder: Path) -> None:
    """Wan2.2 TI2V: 48 channels, and a time of its own for each token."""
    from diffusers import WanPipeline

    torch.manual_seed(0)
    transformer = _transformer(in_channels=48, out_channels=48)
    WanPipeline(transformer=transformer, **_rest(residual=True), expand_timesteps=True).save_pretrained(folder)


def _transformer(kind: Callable[..., torch.nn.Module] | None = None, **changes: Any) -> torch.nn.Module:
    from diffusers import WanTransformer3DModel

    config: dict[str, Any] = {
        "patch_size": (1, 2, 2), "num_attention_heads": 4, "attention_head_dim": 16, "in_channels": 16,
        "out_channels": 16, "text_dim": 32, "freq_dim": 32, "ffn_dim": 128, "num_layers": 2, "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 64,
    }  # fmt: skip
    return (kind or WanTransformer3DModel)(**config | changes).eval()


def _rest(residual: bool = False) -> dict[str, Any]:
    """What stands around the transformers."""
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler

    wide: dict[str, Any] = {
        "z_dim": 48, "in_channels": 12, "out_channels": 12, "is_residual": True, "patch_size": 2,
        "latents_mean": [0.0] * 48, "latents_std": [1.0] * 48, "scale_factor_spatial": 16,
    }  # fmt: skip
    vae = AutoencoderKLWan(
        base_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        **wide if residual else {"z_dim": 16},
    )  # fmt: skip
    tokenizer, text_encoder = umt5(32)
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return {"tokenizer": tokenizer, "text_encoder": text_encoder, "vae": vae.eval(), "scheduler": scheduler}


def _image_encoder() -> dict[str, Any]:
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    vision = CLIPVisionConfig(
        hidden_size=32, projection_dim=32, num_hidden_layers=3, num_attention_heads=4, image_size=32,
        intermediate_size=64, patch_size=8,
    )  # fmt: skip
    encoder = CLIPVisionModel(vision).eval()
    return {"image_encoder": encoder, "image_processor": CLIPImageProcessor(crop_size=32, size=32)}


SMALL = Sampling(height=32, width=32, num_frames=5, steps=2, guidance_scale=2.0, seed=1)
PIPELINES: Tiny = {
    "WanI2V": (save_wan_i2v, SMALL.model_copy(update={"width": 48})),
    "WanT2V": (save_wan_t2v, SMALL),
    "WanFLF2V": (save_wan_flf2v, SMALL),
    "WanVACE": (save_wan_vace, SMALL),
    "Wan2T2V": (partial(save_wan22, image=False), SMALL),
    "Wan2I2V": (partial(save_wan22, image=True), SMALL),
    "Wan2TI2V": (save_wan22_ti2v, SMALL.model_copy(update={"height": 64, "width": 64})),
}
