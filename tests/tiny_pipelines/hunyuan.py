"""HunyuanVideo pipelines at tiny size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from llmc.models.samples import Sampling
from tests.tiny_pipelines.common import SENTENCES, Tiny, clip_text, clip_tokenizer, made_once


@made_once
def save_hunyuan(folder: Path) -> None:
    """HunyuanVideo: two blocks of each kind, of width 64, and one block that refines the text."""
    from diffusers import (
        AutoencoderKLHunyuanVideo,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideoPipeline,
        HunyuanVideoTransformer3DModel,
    )
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=4, attention_head_dim=16, num_layers=2, num_single_layers=2,
        num_refiner_layers=1, text_embed_dim=32, pooled_projection_dim=32, rope_axes_dim=(4, 6, 6),
    )  # fmt: skip
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4, up_block_types=("HunyuanVideoUpBlock3D",) * 4,
    )  # fmt: skip
    tokenizer = words()
    llama = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    pipeline = HunyuanVideoPipeline(
        text_encoder=LlamaModel(llama).eval(),
        tokenizer=tokenizer,
        transformer=transformer.eval(),
        vae=vae.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=clip_text(32),
        tokenizer_2=clip_tokenizer(),
    )
    pipeline.save_pretrained(folder)


def words() -> Any:
    """A tokenizer of whole words: those of the samples, and of the template that the pipeline sets around a prompt."""
    from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
    from transformers import PreTrainedTokenizerFast

    split = pre_tokenizers.Whitespace()
    text = " ".join([DEFAULT_PROMPT_TEMPLATE["template"], *SENTENCES])
    vocabulary = dict.fromkeys(["<pad>", "<unk>", *(word for word, _ in split.pre_tokenize_str(text))])
    pieces = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    pieces.pre_tokenizer = split
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces, pad_token="<pad>", unk_token="<unk>", model_max_length=24
    )  # fmt: skip


PIPELINES: Tiny = {
    "HunyuanVideo": (save_hunyuan, Sampling(height=32, width=32, num_frames=5, steps=2, guidance_scale=6.0, seed=1)),
}
