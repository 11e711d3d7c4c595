"""SkyReels-V2 pipelines at tiny size."""

from __future__ import annotations

from pathlib import Path

import torch

from llmc.models.samples import Sampling
from tests.tiny_pipelines.common import Tiny, made_once, umt5


@made_once
def save_skyreels(folder: Path) -> None:
    """Two blocks of width 64."""
    from diffusers import AutoencoderKLWan, SkyReelsV2Pipeline, SkyReelsV2Transformer3DModel, UniPCMultistepScheduler

    torch.manual_seed(0)
    transformer = SkyReelsV2Transformer3DModel(
        num_attention_heads=4, attention_head_dim=16, in_channels=16, out_channels=16, text_dim=32, freq_dim=32,
        ffn_dim=128, num_layers=2, rope_max_seq_len=64,
    )  # fmt: skip
    vae = AutoencoderKLWan(
        base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    tokenizer, text_encoder = umt5(32)
    SkyReelsV2Pipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        transformer=transformer.eval(),
        vae=vae.eval(),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    ).save_pretrained(folder)


PIPELINES: Tiny = {
    "SkyReelsV2": (save_skyreels, Sampling(height=32, width=32, num_frames=5, steps=2, guidance_scale=5.0, seed=1)),
}
