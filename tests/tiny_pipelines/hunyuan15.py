"""HunyuanVideo-1.5 pipelines at tiny size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from llmc.models.samples import Sampling
from tests.tiny_pipelines.common import Tiny, made_once, t5
from tests.tiny_pipelines.encoders import qwen_tokenizer, qwen_vl


@made_once
def save_hunyuan15(folder: Path, image: bool = False) -> None:
    """Two blocks of width 64, and one that refines the text; `image`: of a first frame."""
    import diffusers
    from diffusers import (
        AutoencoderKLHunyuanVideo15,
        ClassifierFreeGuidance,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideo15Transformer3DModel,
    )
    from transformers import ByT5Tokenizer

    torch.manual_seed(0)
    transformer = HunyuanVideo15Transformer3DModel(
        in_channels=9, out_channels=4, num_attention_heads=4, attention_head_dim=16, num_layers=2,
        num_refiner_layers=1, text_embed_dim=32, text_embed_2_dim=32, image_embed_dim=32, rope_axes_dim=(4, 6, 6),
        target_size=32, task_type="i2v" if image else "t2v",
    )  # fmt: skip
    vae = AutoencoderKLHunyuanVideo15(
        latent_channels=4, block_out_channels=(16, 16, 16, 16), layers_per_block=1, spatial_compression_ratio=8
    )
    _, text_encoder_2 = t5(32, length=256)
    text_encoder_2.resize_token_embeddings(384)  # type: ignore[operator]  # ByT5 has 384 pieces
    kind = "HunyuanVideo15ImageToVideoPipeline" if image else "HunyuanVideo15Pipeline"
    getattr(diffusers, kind)(
        text_encoder=qwen_vl(32, text_only=True),
        tokenizer=qwen_tokenizer(),
        transformer=transformer.eval(),
        vae=vae.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        text_encoder_2=text_encoder_2,
        tokenizer_2=ByT5Tokenizer(),
        guider=ClassifierFreeGuidance(guidance_scale=6.0),
        **(siglip(32) if image else {}),
    ).save_pretrained(folder)


def siglip(width: int) -> dict[str, Any]:
    """An image encoder of 27 x 27 patches, as many as the network counts on, and what feeds it."""
    from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(
        hidden_size=width, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=54, patch_size=2
    )
    processor = SiglipImageProcessor(size={"height": 54, "width": 54})
    return {"image_encoder": SiglipVisionModel(config).eval(), "feature_extractor": processor}


def save_of_image(folder: Path) -> None:
    """HunyuanVideo-1.5 of a first frame."""
    save_hunyuan15(folder, image=True)


SAMPLING = Sampling(height=32, width=48, num_frames=5, steps=2, guidance_scale=6.0, seed=1)
PIPELINES: Tiny = {
    "HunyuanVideo15": (save_hunyuan15, SAMPLING),
    "HunyuanVideo15I2V": (save_of_image, SAMPLING),
}
