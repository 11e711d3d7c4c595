"""CogVideoX and CogVideoX 1.5, text to video."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch

from llmc.models.base import like
from llmc.models.index import PipelineIndex
from llmc.models.one_transformer import OneTransformer, latent_sizes
from llmc.models.parts import Layout, LinearGroup, Modulation
from llmc.models.samples import Sample, Sampling

TEXT_TOKENS = 226


def both_streams(linear: str) -> tuple[Modulation]:
    """One norm reads video and text; each has a shift, a scale and a gate of its own in the rows of one linear."""
    return (Modulation(linear, 6, shift=(0, 3), scale=(1, 4)),)


# Text and video are joined before the linears. Nobody absorbs a scale of net.2's input: a GELU stands before it.
LAYOUT: Layout = {
    "CogVideoXBlock": (
        LinearGroup(("attn1.to_q", "attn1.to_k", "attn1.to_v"), both_streams("norm1.linear")),
        LinearGroup(("attn1.to_out.0",), ("attn1.to_v",), attention="attn1"),
        LinearGroup(("ff.net.0.proj",), both_streams("norm2.linear")),
        LinearGroup(("ff.net.2",)),
    )
}


class CogVideoX(OneTransformer):
    """CogVideoX and CogVideoX 1.5, text to video."""

    name: Literal["CogVideoX"] = "CogVideoX"
    known_as: ClassVar[tuple[str, ...]] = ("CogVideoX-2B", "CogVideoX-5B", "CogVideoX1.5-5B")
    pipeline: ClassVar[str] = "CogVideoXPipeline"
    network: ClassVar[str] = "CogVideoXTransformer3DModel"
    blocks: ClassVar[tuple[str, ...]] = ("transformer_blocks",)
    layout: ClassVar[Layout] = LAYOUT
    float32: ClassVar[tuple[str, ...]] = ("vae",)
    branches: ClassVar[tuple[str, ...]] = ("uncond+cond",)  # one call has both, one above the other
    frame_step: ClassVar[int] = 4

    def inputs(self, index: PipelineIndex, network: torch.nn.Module, sampling: Sampling) -> dict[str, Any]:
        config: Any = network.config
        space = int(2 ** (len(index.config("vae").get("block_out_channels", (0,) * 4)) - 1))
        frames, height, width = latent_sizes(sampling, space)
        frames += -frames % (config.patch_size_t or 1)  # 1.5 makes patches of two frames
        both = 2 if sampling.guidance_scale > 1 else 1
        found: dict[str, Any] = {
            "hidden_states": like(both, frames, config.in_channels, height, width),
            "encoder_hidden_states": like(both, TEXT_TOKENS, config.text_embed_dim),
            "timestep": like(both, dtype=torch.int64),
        }
        if config.use_rotary_positional_embeddings:
            sides = frames // (config.patch_size_t or 1), height // config.patch_size, width // config.patch_size
            tokens = sides[0] * sides[1] * sides[2]
            found["image_rotary_emb"] = (like(tokens, config.attention_head_dim),) * 2
        return found

    def frames(self, pipeline: Any, sample: Sample, sampling: Sampling, **common: Any) -> Any:
        return pipeline(
            prompt=sample.prompt,
            negative_prompt=sample.negative_prompt,
            num_frames=sampling.num_frames,
            guidance_scale=sampling.guidance_scale,
            max_sequence_length=TEXT_TOKENS,
            **common,
        ).frames[0]
