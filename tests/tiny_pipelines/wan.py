"""Wan pipelines at tiny size."""

from __future__ import annotations

from pathlib import Path

import torch

from llmc.models.base import Sampling
from tests.tiny_pipelines.common import Tiny, umt5


def save_wan_i2v(folder: Path, image_encoder: bool = True, layers: int = 2) -> None:
    """Wan2.1 image-to-video: 2 blocks of width 64, an autoencoder that compresses 8x8x4."""
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanImageToVideoPipeline, WanTransformer3DModel
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    image = {"image_dim": 32, "added_kv_proj_dim": 64} if image_encoder else {}
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=16,
        in_channels=36,
        out_channels=16,
        text_dim=32,
        freq_dim=32,
        ffn_dim=128,
        num_layers=layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=64,
        **image,
    )
    vae = AutoencoderKLWan(
        base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    tokenizer, text_encoder = umt5(32)
    vision = CLIPVisionConfig(
        hidden_size=32,
        projection_dim=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=32,
        intermediate_size=64,
        patch_size=8,
    )
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    pipeline = WanImageToVideoPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae.eval(),
        scheduler=scheduler,
        transformer=transformer.eval(),
        image_encoder=CLIPVisionModel(vision).eval() if image_encoder else None,
        image_processor=CLIPImageProcessor(crop_size=32, size=32) if image_encoder else None,
    )
    pipeline.save_pretrained(folder)


PIPELINES: Tiny = {
    "WanI2V": (save_wan_i2v, Sampling(height=32, width=48, num_frames=5, steps=2, guidance_scale=2.0, seed=1)),
}
