"""Stable Diffusion 3 pipelines at tiny size."""

from __future__ import annotations

from pathlib import Path

import torch

from llmc.models.samples import Sampling
from tests.tiny_pipelines.common import Tiny, clip_text, clip_tokenizer, image_vae, made_once, t5


@made_once
def save_sd3(folder: Path, dual: bool = True) -> None:
    """Three blocks of width 64; `dual`: SD3.5 medium's norms of q and k, and a second attention in the first block."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=16, in_channels=4, out_channels=4, num_layers=3, attention_head_dim=16, num_attention_heads=4,
        caption_projection_dim=64, joint_attention_dim=64, pooled_projection_dim=64, pos_embed_max_size=16,
        qk_norm="rms_norm" if dual else None, dual_attention_layers=(0,) if dual else (),
    )  # fmt: skip
    tokenizer_3, text_encoder_3 = t5(64, length=24)
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=image_vae(),
        text_encoder=clip_text(32, projected=True),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip_text(32, projected=True),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=text_encoder_3,
        tokenizer_3=tokenizer_3,
    )
    pipeline.save_pretrained(folder)


PIPELINES: Tiny = {
    "SD3": (save_sd3, Sampling(height=32, width=32, num_frames=1, steps=2, guidance_scale=5.0, seed=1)),
}
