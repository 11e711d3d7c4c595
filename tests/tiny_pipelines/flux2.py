"""FLUX.2 and FLUX.1 Kontext pipelines at tiny size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from llmc.models.samples import Sampling
from tests.tiny_pipelines.common import Tiny, clip_text, clip_tokenizer, image_vae, made_once, t5
from tests.tiny_pipelines.encoders import qwen3, qwen_tokenizer


def flux2_transformer(guided: bool) -> torch.nn.Module:
    """Two blocks of each kind, of width 64."""
    from diffusers import Flux2Transformer2DModel

    return Flux2Transformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=4,
        joint_attention_dim=96, timestep_guidance_channels=32, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=guided,
    ).eval()  # fmt: skip


def flux2_vae() -> torch.nn.Module:
    """An autoencoder that halves the sides, and normalizes patches of its latents."""
    from diffusers import AutoencoderKLFlux2

    return AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=32,
    ).eval()  # fmt: skip


def shifted() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)


@made_once
def save_flux2_klein(folder: Path, distilled: bool = False) -> None:
    """FLUX.2 klein; of its encoder the layers 9, 18 and 27 are read, whatever it has."""
    from diffusers import Flux2KleinPipeline

    torch.manual_seed(0)
    transformer = flux2_transformer(guided=False)
    Flux2KleinPipeline(
        scheduler=shifted(),
        vae=flux2_vae(),
        text_encoder=qwen3(32, layers=27, head=True),
        tokenizer=qwen_tokenizer(),
        transformer=transformer,
        is_distilled=distilled,
    ).save_pretrained(folder)


@made_once
def save_kontext(folder: Path) -> None:
    """FLUX.1 Kontext: FLUX.1's own transformer."""
    from diffusers import FluxKontextPipeline, FluxTransformer2DModel

    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=4,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    )  # fmt: skip
    tokenizer_2, text_encoder_2 = t5(32, length=24)
    FluxKontextPipeline(
        scheduler=shifted(),
        vae=image_vae(),
        text_encoder=clip_text(32),
        tokenizer=clip_tokenizer(),
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
        transformer=transformer.eval(),
    ).save_pretrained(folder)


PIPELINES: Tiny = {
    "Flux2Klein": (save_flux2_klein, Sampling(height=32, width=48, num_frames=1, steps=2, guidance_scale=4.0, seed=1)),
    "FluxKontext": (save_kontext, Sampling(height=32, width=48, num_frames=1, steps=2, guidance_scale=2.5, seed=1)),
}
