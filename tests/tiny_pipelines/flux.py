"""FLUX.1 pipelines at tiny size."""

from __future__ import annotations

from pathlib import Path

import torch

from llmc.models.samples import Sampling
from tests.tiny_pipelines.common import Tiny, clip_text, clip_tokenizer, image_vae, made_once, t5


@made_once
def save_flux(folder: Path, guided: bool = True) -> None:
    """FLUX.1: two blocks of each kind, of width 64; `guided` as dev is, and schnell is not."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=4,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8), guidance_embeds=guided,
    )  # fmt: skip
    tokenizer_2, text_encoder_2 = t5(32, length=24)
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=guided),
        vae=image_vae(),
        text_encoder=clip_text(32),
        tokenizer=clip_tokenizer(),
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
        transformer=transformer.eval(),
    )
    pipeline.save_pretrained(folder)


PIPELINES: Tiny = {
    "Flux": (save_flux, Sampling(height=32, width=48, num_frames=1, steps=2, guidance_scale=3.5, seed=1)),
}
