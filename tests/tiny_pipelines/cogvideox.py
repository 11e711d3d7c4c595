"""CogVideoX pipelines at tiny size."""

from __future__ import annotations

from pathlib import Path

import torch

from llmc.models.samples import Sampling
from tests.tiny_pipelines.common import Tiny, made_once, t5


@made_once
def save_cogvideox(folder: Path) -> None:
    """CogVideoX 1.5, whose patches are of two frames: two blocks of width 64."""
    from diffusers import (
        AutoencoderKLCogVideoX,
        CogVideoXDDIMScheduler,
        CogVideoXPipeline,
        CogVideoXTransformer3DModel,
    )

    torch.manual_seed(0)
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=4, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=32,
        text_embed_dim=32, num_layers=2, sample_width=4, sample_height=4, sample_frames=9, patch_size=2, patch_size_t=2,
        max_text_seq_length=226, use_rotary_positional_embeddings=True, patch_bias=False,
    )  # fmt: skip
    for name, parameter in transformer.named_parameters():
        if ".norm" in name and "linear" not in name and "weight" in name:  # of a trained network they are not all one
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2,
    )  # fmt: skip
    tokenizer, text_encoder = t5(32, length=226)
    scheduler = CogVideoXDDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=1.0, timestep_spacing="trailing"
    )
    CogVideoXPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae.eval(),
        transformer=transformer.eval(),
        scheduler=scheduler,
    ).save_pretrained(folder)


PIPELINES: Tiny = {
    "CogVideoX": (save_cogvideox, Sampling(height=32, width=32, num_frames=9, steps=2, guidance_scale=6.0, seed=1)),
}
