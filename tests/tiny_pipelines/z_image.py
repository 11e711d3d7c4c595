"""Z-Image pipelines at tiny size."""

from __future__ import annotations

from pathlib import Path

import torch

from llmc.models.samples import Sampling
from tests.tiny_pipelines.common import Tiny, image_vae, made_once
from tests.tiny_pipelines.encoders import qwen3, qwen_tokenizer


@made_once
def save_z_image(folder: Path) -> None:
    """Two blocks of width 64, one that refines the noise, and one that refines the text."""
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel

    torch.manual_seed(0)
    transformer = ZImageTransformer2DModel(
        in_channels=4, dim=64, n_layers=2, n_refiner_layers=1, n_heads=4, n_kv_heads=4, cap_feat_dim=32,
        axes_dims=[4, 6, 6], axes_lens=[1024, 32, 32],
    )  # fmt: skip
    for name, parameter in transformer.named_parameters():
        if "pad_token" in name:
            torch.nn.init.normal_(parameter)
    ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=image_vae(),
        text_encoder=qwen3(32, layers=3),
        tokenizer=qwen_tokenizer(),
        transformer=transformer.eval(),
    ).save_pretrained(folder)


PIPELINES: Tiny = {
    "ZImage": (save_z_image, Sampling(height=32, width=32, num_frames=1, steps=2, guidance_scale=4.0, seed=1)),
}
