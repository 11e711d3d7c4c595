"""Kandinsky 5, text to video."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch

from llmc.models.base import like
from llmc.models.index import PipelineIndex
from llmc.models.mmdit import adaptive
from llmc.models.one_transformer import OneTransformer, latent_sizes, of_diffusers
from llmc.models.parts import Layout, LinearGroup
from llmc.models.samples import Sample, Sampling
from llmc.renames import Original

# The names of its own repository are diffusers', and ComfyUI reads them
ORIGINAL: Original = of_diffusers(
    "time_embeddings", "text_embeddings", "pooled_text_embeddings", "visual_embeddings", "text_transformer_blocks",
    "visual_transformer_blocks", "out_layer",
)  # fmt: skip
TEXT_TOKENS = 512
MODULATION = "visual_modulation.out_layer"  # shift, scale and gate of three norms

LAYOUT: Layout = {
    "Kandinsky5TransformerDecoderBlock": (
        LinearGroup(
            ("self_attention.to_query", "self_attention.to_key", "self_attention.to_value"), adaptive(MODULATION, 9)
        ),
        LinearGroup(("self_attention.out_layer",), ("self_attention.to_value",), attention="self_attention"),
        LinearGroup(("cross_attention.to_query",), adaptive(MODULATION, 9, norm=1)),
        LinearGroup(("cross_attention.to_key", "cross_attention.to_value")),
        LinearGroup(("cross_attention.out_layer",), ("cross_attention.to_value",), attention="cross_attention"),
        LinearGroup(("feed_forward.in_layer",), adaptive(MODULATION, 9, norm=2)),
        LinearGroup(("feed_forward.out_layer",)),
    )
}


class Kandinsky5(OneTransformer):
    """Kandinsky 5, text to video."""

    name: Literal["Kandinsky5"] = "Kandinsky5"
    known_as: ClassVar[tuple[str, ...]] = ("Kandinsky-5.0", "Kandinsky-5.0-T2V-Lite", "Kandinsky-5.0-T2V-Pro")
    pipeline: ClassVar[str] = "Kandinsky5T2VPipeline"
    network: ClassVar[str] = "Kandinsky5Transformer3DModel"
    blocks: ClassVar[tuple[str, ...]] = ("visual_transformer_blocks",)  # those that read the text stay float
    layout: ClassVar[Layout] = LAYOUT
    float32: ClassVar[tuple[str, ...]] = ("vae",)
    frame_step: ClassVar[int] = 4
    prompt_sized: ClassVar[frozenset[str]] = frozenset({"encoder_hidden_states", "text_rope_pos"})

    @classmethod
    def original(cls, network: torch.nn.Module) -> Original:
        return ORIGINAL

    def inputs(self, index: PipelineIndex, network: torch.nn.Module, sampling: Sampling) -> dict[str, Any]:
        config: Any = network.config
        frames, height, width = latent_sizes(sampling)
        channels = 2 * config.in_visual_dim + 1 if config.visual_cond else config.in_visual_dim
        sides = (frames, height // config.patch_size[1], width // config.patch_size[2])
        return {
            "hidden_states": like(1, frames, height, width, channels),
            "encoder_hidden_states": like(1, TEXT_TOKENS, config.in_text_dim),
            "timestep": like(1),
            "pooled_projections": like(1, config.in_text_dim2),
            "visual_rope_pos": [like(side, dtype=torch.int64) for side in sides],
            "text_rope_pos": like(TEXT_TOKENS, dtype=torch.int64),
        }

    def frames(self, pipeline: Any, sample: Sample, sampling: Sampling, **common: Any) -> Any:
        return pipeline(
            prompt=sample.prompt,
            negative_prompt=sample.negative_prompt,
            num_frames=sampling.num_frames,
            guidance_scale=sampling.guidance_scale,
            max_sequence_length=TEXT_TOKENS,
            **common,
        ).frames[0]
