"""LTX-2 pipelines at tiny size."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch

from llmc.models.samples import Sampling
from tests.tiny_pipelines.common import SPACE, Tiny, made_once

# what LTX-2.3 has beside LTX-2
NEWER = {
    "gated_attn": True, "audio_gated_attn": True, "cross_attn_mod": True, "audio_cross_attn_mod": True,
    "perturbed_attn": True, "use_prompt_embeddings": False, "rope_type": "split",
}  # fmt: skip


@made_once
def save_ltx2(folder: Path, newer: bool = True) -> None:
    """Two blocks, of width 64 for the video and 32 for its sound; `newer`: LTX-2.3."""
    from diffusers import (
        AutoencoderKLLTX2Audio,
        AutoencoderKLLTX2Video,
        FlowMatchEulerDiscreteScheduler,
        LTX2Pipeline,
        LTX2VideoTransformer3DModel,
    )
    from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder

    torch.manual_seed(0)
    transformer = LTX2VideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=4, attention_head_dim=16, cross_attention_dim=64,
        audio_in_channels=4, audio_out_channels=4, audio_num_attention_heads=4, audio_attention_head_dim=8,
        audio_cross_attention_dim=32, num_layers=2, caption_channels=32, **(NEWER if newer else {}),
    )  # fmt: skip
    connectors = LTX2TextConnectors(
        caption_channels=32, text_proj_in_factor=3, video_connector_num_attention_heads=4,
        video_connector_attention_head_dim=16 if newer else 8, video_connector_num_layers=1,
        video_connector_num_learnable_registers=8, audio_connector_num_attention_heads=4,
        audio_connector_attention_head_dim=8, audio_connector_num_layers=1, audio_connector_num_learnable_registers=8,
        connector_rope_base_seq_len=32, video_hidden_dim=64, audio_hidden_dim=32, per_modality_projections=newer,
        rope_type="split" if newer else "interleaved",
    )  # fmt: skip
    vae = AutoencoderKLLTX2Video(
        latent_channels=4, block_out_channels=(8,), decoder_block_out_channels=(8,), layers_per_block=(1,),
        decoder_layers_per_block=(1, 1), spatio_temporal_scaling=(True,), decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False), downsample_type=("spatial",), upsample_type=("spatial",),
        upsample_residual=(False,), upsample_factor=(1,), patch_size=4,
    )  # fmt: skip
    audio_vae = AutoencoderKLLTX2Audio(
        base_channels=4, ch_mult=(1,), num_res_blocks=1, resolution=32, latent_channels=2, mel_bins=8
    )
    vocoder = LTX2Vocoder(
        in_channels=16, hidden_channels=16, upsample_kernel_sizes=[4, 4], upsample_factors=[2, 2],
        resnet_kernel_sizes=[3], resnet_dilations=[[1, 3, 5]],
    )  # fmt: skip
    LTX2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae.eval(),
        audio_vae=audio_vae.eval(),
        text_encoder=gemma(32),
        tokenizer=gemma_tokenizer(16),
        connectors=connectors.eval(),
        transformer=transformer.eval(),
        vocoder=vocoder.eval(),
    ).save_pretrained(folder)


def gemma(width: int) -> torch.nn.Module:
    """Gemma 3 of two blocks and one of vision, which `gemma_tokenizer` feeds."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    language: dict[str, Any] = {
        "vocab_size": 40, "hidden_size": width, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "eos_token_id": 1,
        "bos_token_id": 2,
    }  # fmt: skip
    vision: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
        "patch_size": 14,
    }  # fmt: skip
    config = Gemma3Config(text_config=language, vision_config=vision, mm_tokens_per_image=4, image_token_index=39)
    return Gemma3ForConditionalGeneration(config).eval()


def gemma_tokenizer(length: int) -> Any:
    """A Gemma tokenizer of letters, and of at most `length` of them."""
    from transformers import GemmaTokenizer

    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", SPACE, *string.ascii_lowercase, ","]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return GemmaTokenizer(vocab=vocabulary, merges=[], model_max_length=length)


PIPELINES: Tiny = {
    "LTX2": (save_ltx2, Sampling(height=32, width=32, num_frames=9, steps=2, guidance_scale=3.0, seed=1)),
}
