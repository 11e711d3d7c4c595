"""LongCat-Image pipelines at tiny size."""

from __future__ import annotations

from pathlib import Path

import torch

from llmc.models.samples import Sampling
from tests.tiny_pipelines.common import Tiny, image_vae, made_once
from tests.tiny_pipelines.encoders import qwen_tokenizer, qwen_vl, qwen_vl_processor


@made_once
def save_longcat(folder: Path) -> None:
    """Two blocks of each kind, of width 64; the pipeline counts on 16 channels."""
    from diffusers import FlowMatchEulerDiscreteScheduler, LongCatImagePipeline, LongCatImageTransformer2DModel

    torch.manual_seed(0)
    transformer = LongCatImageTransformer2DModel(
        in_channels=64, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=4,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=[4, 6, 6],
    )  # fmt: skip
    LongCatImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=image_vae(channels=16),
        text_encoder=qwen_vl(32),
        tokenizer=qwen_tokenizer(),
        text_processor=qwen_vl_processor(),
        transformer=transformer.eval(),
    ).save_pretrained(folder)


PIPELINES: Tiny = {
    "LongCatImage": (save_longcat, Sampling(height=32, width=32, num_frames=1, steps=2, guidance_scale=4.5, seed=1)),
}
