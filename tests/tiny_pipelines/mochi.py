"""Mochi pipelines at tiny size."""

from __future__ import annotations

from pathlib import Path

import torch

from llmc.models.samples import Sampling
from tests.tiny_pipelines.common import Tiny, made_once, t5


@made_once
def save_mochi(folder: Path) -> None:
    """Three blocks of width 64, and 48 for the text, which the last one does not update."""
    from diffusers import AutoencoderKLMochi, FlowMatchEulerDiscreteScheduler, MochiPipeline, MochiTransformer3DModel

    torch.manual_seed(0)
    transformer = MochiTransformer3DModel(
        num_attention_heads=4, attention_head_dim=16, num_layers=3, pooled_projection_dim=48, text_embed_dim=32,
        time_embed_dim=32, max_sequence_length=256,
    )  # fmt: skip
    vae = AutoencoderKLMochi(
        encoder_block_out_channels=(32, 32, 32, 32), decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
    )  # fmt: skip
    tokenizer, text_encoder = t5(32, length=256)
    MochiPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae.eval(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=transformer.eval(),
    ).save_pretrained(folder)


PIPELINES: Tiny = {
    "Mochi": (save_mochi, Sampling(height=32, width=32, num_frames=7, steps=2, guidance_scale=4.5, seed=1)),
}
