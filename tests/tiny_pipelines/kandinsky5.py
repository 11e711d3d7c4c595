"""Kandinsky 5 pipelines at tiny size."""

from __future__ import annotations

from pathlib import Path

import torch

from llmc.models.samples import Sampling
from tests.tiny_pipelines.common import Tiny, clip_text, clip_tokenizer, made_once
from tests.tiny_pipelines.encoders import qwen_vl, qwen_vl_processor


@made_once
def save_kandinsky5(folder: Path) -> None:
    """Two blocks of video of width 64, and one of text."""
    from diffusers import (
        AutoencoderKLHunyuanVideo,
        FlowMatchEulerDiscreteScheduler,
        Kandinsky5T2VPipeline,
        Kandinsky5Transformer3DModel,
    )

    torch.manual_seed(0)
    transformer = Kandinsky5Transformer3DModel(
        in_text_dim=32, in_text_dim2=32, time_dim=32, model_dim=64, ff_dim=128, num_text_blocks=1, num_visual_blocks=2,
        axes_dims=(4, 6, 6), visual_cond=True,
    )  # fmt: skip
    for name, parameter in transformer.named_parameters():
        if "modulation.out_layer" in name:  # zero at first, so that no block would be heard of
            torch.nn.init.normal_(parameter, std=0.2)
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4, up_block_types=("HunyuanVideoUpBlock3D",) * 4,
    )  # fmt: skip
    Kandinsky5T2VPipeline(
        transformer=transformer.eval(),
        vae=vae.eval(),
        text_encoder=qwen_vl(32),
        tokenizer=qwen_vl_processor(),
        text_encoder_2=clip_text(32),
        tokenizer_2=clip_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
    ).save_pretrained(folder)


PIPELINES: Tiny = {
    "Kandinsky5": (save_kandinsky5, Sampling(height=32, width=32, num_frames=5, steps=2, guidance_scale=5.0, seed=1)),
}
