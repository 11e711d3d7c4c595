"""LongCat-Image, text to image: FLUX.1's blocks, without a pooled prompt and without guidance as an input."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch

from llmc.models.base import like
from llmc.models.flux import ORIGINAL as FLUX
from llmc.models.index import PipelineIndex
from llmc.models.mmdit import DOUBLE_STREAM, SINGLE_STREAM
from llmc.models.one_transformer import OneTransformer, image_compression
from llmc.models.parts import Layout
from llmc.models.samples import Sample, Sampling
from llmc.renames import Original

# FLUX.1's names, in which ComfyUI and LightX2V read it
ORIGINAL: Original = (
    *(row for row in FLUX if not (isinstance(row, tuple) and row[0].startswith("time_text_embed."))),
    ("time_embed.timestep_embedder.linear_1", "time_in.in_layer"),
    ("time_embed.timestep_embedder.linear_2", "time_in.out_layer"),
)
TEXT_TOKENS = 512
LAYOUT: Layout = {
    "LongCatImageTransformerBlock": DOUBLE_STREAM,
    "LongCatImageSingleTransformerBlock": SINGLE_STREAM,
}


class LongCatImage(OneTransformer):
    """LongCat-Image, text to image."""

    name: Literal["LongCatImage"] = "LongCatImage"
    known_as: ClassVar[tuple[str, ...]] = ("LongCat-Image",)
    pipeline: ClassVar[str] = "LongCatImagePipeline"
    network: ClassVar[str] = "LongCatImageTransformer2DModel"
    blocks: ClassVar[tuple[str, ...]] = ("transformer_blocks", "single_transformer_blocks")
    layout: ClassVar[Layout] = LAYOUT
    makes_images: ClassVar[bool] = True

    @classmethod
    def original(cls, network: torch.nn.Module) -> Original:
        return ORIGINAL

    def inputs(self, index: PipelineIndex, network: torch.nn.Module, sampling: Sampling) -> dict[str, Any]:
        config: Any = network.config
        side = 2 * image_compression(index)  # four latents are a token
        image = (sampling.height // side) * (sampling.width // side)
        return {
            "hidden_states": like(1, image, config.in_channels),
            "encoder_hidden_states": like(1, TEXT_TOKENS, config.joint_attention_dim),
            "timestep": like(1),
            "img_ids": like(image, 3),
            "txt_ids": like(TEXT_TOKENS, 3),
        }

    def frames(self, pipeline: Any, sample: Sample, sampling: Sampling, **common: Any) -> Any:
        return pipeline(
            prompt=sample.prompt,
            negative_prompt=sample.negative_prompt,
            guidance_scale=sampling.guidance_scale,
            enable_prompt_rewrite=False,  # the encoder would write another prompt
            **common,
        ).images
