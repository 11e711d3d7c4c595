"""Qwen-Image pipelines at tiny size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from llmc.models.samples import Sampling
from tests.tiny_pipelines.common import Tiny, made_once
from tests.tiny_pipelines.encoders import qwen_tokenizer, qwen_vl, qwen_vl_processor


@made_once
def save_qwen_image(folder: Path, pipeline: str = "QwenImagePipeline", told_apart: bool = False) -> None:
    """Two blocks of width 64; `told_apart` as in Edit-2511: the picture that is given has the time 0."""
    import diffusers
    from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImageTransformer2DModel

    torch.manual_seed(0)
    transformer = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=4,
        joint_attention_dim=32, axes_dims_rope=(4, 6, 6), zero_cond_t=told_apart,
    )  # fmt: skip
    edits = "Edit" in pipeline
    halvings = 5 if edits else 2  # a picture to be changed is always of a megapixel
    vae = AutoencoderKLQwenImage(
        base_dim=4, z_dim=4, dim_mult=[1] * (halvings + 1), num_res_blocks=1,
        temperal_downsample=[number > 2 for number in range(halvings)],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    components: dict[str, Any] = {"processor": qwen_vl_processor()} if edits else {}
    getattr(diffusers, pipeline)(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae.eval(),
        text_encoder=qwen_vl(32),
        tokenizer=qwen_tokenizer(),
        transformer=transformer.eval(),
        **components,
    ).save_pretrained(folder)


def save_edit_plus(folder: Path) -> None:
    """Qwen-Image-Edit-2511."""
    save_qwen_image(folder, pipeline="QwenImageEditPlusPipeline", told_apart=True)


PIPELINES: Tiny = {
    "QwenImage": (save_qwen_image, Sampling(height=32, width=48, num_frames=1, steps=2, guidance_scale=4.0, seed=1)),
    "QwenImageEdit": (
        save_edit_plus,
        Sampling(height=64, width=128, num_frames=1, steps=2, guidance_scale=4.0, seed=1),
    ),
}
