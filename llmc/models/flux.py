"""FLUX.1: dev, which is guidance-distilled, and schnell, which knows no guidance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch

from llmc.models.base import like
from llmc.models.index import PipelineIndex
from llmc.models.mmdit import DOUBLE_STREAM, IMAGE, SINGLE_STREAM, TEXT
from llmc.models.one_transformer import OneTransformer, image_compression, of_diffusers, text_tokens
from llmc.models.parts import Layout
from llmc.models.samples import Sample, Sampling
from llmc.renames import Fused, Original, Renames, Swapped


def double_block_rows(first: str, last: str) -> Original:
    """Attention and feed-forward of both streams of a double block; `first` and `last` of its linears, as diffusers
    calls them."""
    rows: list[Any] = []
    for ours, theirs in ((IMAGE, "img"), (TEXT, "txt")):
        block, attention = "transformer_blocks.{}.", f"double_blocks.{{}}.{theirs}_attn"
        rows += [
            Fused(tuple(block + name for name in ours.qkv), f"{attention}.qkv"),
            (f"{block}{ours.norm_q}.weight", f"{attention}.norm.query_norm.scale"),
            (f"{block}{ours.norm_k}.weight", f"{attention}.norm.key_norm.scale"),
            (block + ours.out, f"{attention}.proj"),
            (f"{block}{ours.ff}.{first}", f"double_blocks.{{}}.{theirs}_mlp.0"),
            (f"{block}{ours.ff}.{last}", f"double_blocks.{{}}.{theirs}_mlp.2"),
        ]
    return tuple(rows)


# The names of the repository that FLUX.1 comes from, which ComfyUI reads too
ORIGINAL: Original = (
    ("x_embedder", "img_in"),
    ("context_embedder", "txt_in"),
    *(
        (f"time_text_embed.{ours}.linear_{number}", f"{theirs}.{side}_layer")
        for ours, theirs in (
            ("timestep_embedder", "time_in"), ("text_embedder", "vector_in"), ("guidance_embedder", "guidance_in")
        )
        for number, side in ((1, "in"), (2, "out"))
    ),
    ("transformer_blocks.{}.norm1.linear", "double_blocks.{}.img_mod.lin"),
    ("transformer_blocks.{}.norm1_context.linear", "double_blocks.{}.txt_mod.lin"),
    *double_block_rows("net.0.proj", "net.2"),
    ("single_transformer_blocks.{}.norm.linear", "single_blocks.{}.modulation.lin"),
    Fused(
        tuple(f"single_transformer_blocks.{{}}.{name}" for name in SINGLE_STREAM[0].linears),
        "single_blocks.{}.linear1",
        shares=(1, 1, 1, 4),
    ),
    ("single_transformer_blocks.{}.attn.norm_q.weight", "single_blocks.{}.norm.query_norm.scale"),
    ("single_transformer_blocks.{}.attn.norm_k.weight", "single_blocks.{}.norm.key_norm.scale"),
    ("single_transformer_blocks.{}.proj_out", "single_blocks.{}.linear2"),
    Swapped("norm_out.linear", "final_layer.adaLN_modulation.1"),
    ("proj_out", "final_layer.linear"),
)  # fmt: skip

LAYOUT: Layout = {
    "FluxTransformerBlock": DOUBLE_STREAM,
    "FluxSingleTransformerBlock": SINGLE_STREAM,
}


class Flux(OneTransformer):
    """FLUX.1 dev and schnell, text to image."""

    name: Literal["Flux"] = "Flux"
    known_as: ClassVar[tuple[str, ...]] = ("FLUX.1", "FLUX.1-dev", "FLUX.1-schnell")
    pipeline: ClassVar[str] = "FluxPipeline"
    network: ClassVar[str] = "FluxTransformer2DModel"
    renames: ClassVar[Mapping[str, Renames]] = {
        "mindie": of_diffusers(
            "x_embedder", "context_embedder", "time_text_embed", "transformer_blocks", "single_transformer_blocks",
            "norm_out", "proj_out",
        )
    }  # fmt: skip
    blocks: ClassVar[tuple[str, ...]] = ("transformer_blocks", "single_transformer_blocks")
    layout: ClassVar[Layout] = LAYOUT
    branches: ClassVar[tuple[str, ...]] = ("cond",)  # guidance is an input of dev's network, and schnell has none
    makes_images: ClassVar[bool] = True

    @classmethod
    def original(cls, network: torch.nn.Module) -> Original:
        return ORIGINAL

    def inputs(self, index: PipelineIndex, network: torch.nn.Module, sampling: Sampling) -> dict[str, Any]:
        config: Any = network.config
        side = 2 * image_compression(index)  # four latents are a token
        image = (sampling.height // side) * (sampling.width // side)
        text = text_tokens(index, "tokenizer_2", 512 if config.guidance_embeds else 256)
        return {
            "hidden_states": like(1, image, config.in_channels),
            "timestep": like(1),
            "guidance": like(1) if config.guidance_embeds else None,
            "pooled_projections": like(1, config.pooled_projection_dim),
            "encoder_hidden_states": like(1, text, config.joint_attention_dim),
            "txt_ids": like(text, 3),
            "img_ids": like(image, 3),
        }

    def frames(self, pipeline: Any, sample: Sample, sampling: Sampling, **common: Any) -> Any:
        # schnell was trained on 256 tokens of text, dev on 512
        longest = 512 if pipeline.transformer.config.guidance_embeds else 256
        return pipeline(
            prompt=sample.prompt,
            guidance_scale=sampling.guidance_scale,
            max_sequence_length=min(longest, pipeline.tokenizer_2.model_max_length),
            **common,
        ).images
