"""Tiny complete pipelines of real diffusers and transformers classes, random weights, nothing downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from llmc.models.base import Sampling

SENTENCES = [
    "a red circle moving left",
    "a green square moving right",
    "a blue triangle moving up",
    "blurry, low quality",
] * 4


def save_wan_i2v(folder: Path, image_encoder: bool = True, layers: int = 2) -> None:
    """Wan2.1 image-to-video: 2 blocks of width 64, an autoencoder that compresses 8x8x4."""
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanImageToVideoPipeline, WanTransformer3DModel
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    image = {"image_dim": 32, "added_kv_proj_dim": 64} if image_encoder else {}
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=16,
        in_channels=36,
        out_channels=16,
        text_dim=32,
        freq_dim=32,
        ffn_dim=128,
        num_layers=layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=64,
        **image,
    )
    vae = AutoencoderKLWan(
        base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    tokenizer, text_encoder = umt5(32)
    vision = CLIPVisionConfig(
        hidden_size=32,
        projection_dim=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=32,
        intermediate_size=64,
        patch_size=8,
    )
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    pipeline = WanImageToVideoPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae.eval(),
        scheduler=scheduler,
        transformer=transformer.eval(),
        image_encoder=CLIPVisionModel(vision).eval() if image_encoder else None,
        image_processor=CLIPImageProcessor(crop_size=32, size=32) if image_encoder else None,
    )
    pipeline.save_pretrained(folder)


def umt5(width: int) -> tuple[Any, torch.nn.Module]:
    """A T5 tokenizer of a few hundred pieces, and an UMT5 encoder of two blocks."""
    from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

    pieces = Tokenizer(models.Unigram())
    pieces.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")
    pieces.decoder = decoders.Metaspace(replacement="\u2581", prepend_scheme="always")
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=128, special_tokens=special, unk_token="<unk>", show_progress=False)
    pieces.train_from_iterator(SENTENCES, trainer)
    pieces.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = T5Tokenizer(tokenizer_object=pieces, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    config = UMT5Config(vocab_size=512, d_model=width, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    return tokenizer, UMT5EncoderModel(config).eval()


def save_samples(folder: Path, count: int = 2) -> None:
    """A samples.json with noise images."""
    import json

    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for i in range(count):
        noise = (np.random.RandomState(i).rand(32, 32, 3) * 255).astype("uint8")
        Image.fromarray(noise).save(folder / f"{i}.png")
        entries.append({"image": f"{i}.png", "prompt": SENTENCES[i], "negative_prompt": "blurry"})
    (folder / "samples.json").write_text(json.dumps(entries), encoding="utf-8")


# adapter name -> how to save a tiny pipeline of it, and how that is run; a new adapter brings its own row
TINY: dict[str, tuple[Callable[[Path], None], Sampling]] = {
    "WanI2V": (save_wan_i2v, Sampling(height=32, width=48, num_frames=5, steps=2, guidance_scale=2.0, seed=1)),
}
