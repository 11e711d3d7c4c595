"""Mochi, text to video: a wide stream of video and a narrow one of text attend jointly."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch

from llmc.models.base import like
from llmc.models.index import PipelineIndex
from llmc.models.one_transformer import OneTransformer, latent_sizes
from llmc.models.parts import Layout, LinearGroup, Modulation, Rows
from llmc.models.samples import Sample, Sampling
from llmc.renames import Fused, Original, Swapped

# The names of the repository that Mochi comes from, which ComfyUI reads too
ORIGINAL: Original = (
    ("patch_embed.proj", "x_embedder.proj"),
    ("pos_frequencies", "pos_frequencies"),
    ("time_embed.timestep_embedder.linear_1", "t_embedder.mlp.0"),
    ("time_embed.timestep_embedder.linear_2", "t_embedder.mlp.2"),
    ("time_embed.pooler", "t5_y_embedder"),
    ("time_embed.caption_proj", "t5_yproj"),
    *(
        row
        for stream, added, out, norm, ff in (
            ("x", ("to_q", "to_k", "to_v", "norm_q", "norm_k"), "to_out.0", "norm1", "ff"),
            ("y", ("add_q_proj", "add_k_proj", "add_v_proj", "norm_added_q", "norm_added_k"), "to_add_out",
             "norm1_context", "ff_context"),
        )
        for row in (
            Fused(tuple(f"transformer_blocks.{{}}.attn1.{name}" for name in added[:3]),
                  f"blocks.{{}}.attn.qkv_{stream}"),
            (f"transformer_blocks.{{}}.attn1.{added[3]}", f"blocks.{{}}.attn.q_norm_{stream}"),
            (f"transformer_blocks.{{}}.attn1.{added[4]}", f"blocks.{{}}.attn.k_norm_{stream}"),
            (f"transformer_blocks.{{}}.attn1.{out}", f"blocks.{{}}.attn.proj_{stream}"),
            (f"transformer_blocks.{{}}.{norm}.linear", f"blocks.{{}}.mod_{stream}"),
            Swapped(f"transformer_blocks.{{}}.{ff}.net.0.proj", f"blocks.{{}}.mlp_{stream}.w1"),
            (f"transformer_blocks.{{}}.{ff}.net.2", f"blocks.{{}}.mlp_{stream}.w2"),
        )
    ),
    Swapped("norm_out.linear", "final_layer.mod"),
    ("proj_out", "final_layer.linear"),
)  # fmt: skip
TEXT_TOKENS = 256


def scaled(linear: str, number: int) -> tuple[Modulation]:
    """The linear gives (scale, gate) of a norm, then of the next one, and no shift."""
    return (Modulation(linear, 4, shift=(), scale=(2 * number,)),)


# Who can absorb a scale of each input: the linear that modulates the norm before it (in the last block, whose text goes
# nowhere, that of the text has another form), or the half of net.0's rows that the other half's SiLU multiplies.
LAYOUT: Layout = {
    "MochiTransformerBlock": (
        LinearGroup(("attn1.to_q", "attn1.to_k", "attn1.to_v"), scaled("norm1.linear", 0)),
        LinearGroup(
            ("attn1.add_q_proj", "attn1.add_k_proj", "attn1.add_v_proj"),
            (*scaled("norm1_context.linear", 0), Modulation("norm1_context.linear_1", 1, shift=(), scale=(0,))),
        ),
        LinearGroup(("attn1.to_out.0",)),
        LinearGroup(("attn1.to_add_out",)),
        LinearGroup(("ff.net.0.proj",), scaled("norm1.linear", 1)),
        LinearGroup(("ff.net.2",), (Rows("ff.net.0.proj", 2, 0),)),
        LinearGroup(("ff_context.net.0.proj",), scaled("norm1_context.linear", 1)),
        LinearGroup(("ff_context.net.2",), (Rows("ff_context.net.0.proj", 2, 0),)),
    )
}  # fmt: skip


class Mochi(OneTransformer):
    """Mochi 1, text to video."""

    name: Literal["Mochi"] = "Mochi"
    known_as: ClassVar[tuple[str, ...]] = ("Mochi-1", "mochi-1-preview")
    pipeline: ClassVar[str] = "MochiPipeline"
    network: ClassVar[str] = "MochiTransformer3DModel"
    blocks: ClassVar[tuple[str, ...]] = ("transformer_blocks",)
    layout: ClassVar[Layout] = LAYOUT
    float32: ClassVar[tuple[str, ...]] = ("vae",)
    branches: ClassVar[tuple[str, ...]] = ("uncond+cond",)  # one call has both, one above the other
    frame_step: ClassVar[int] = 6

    @classmethod
    def original(cls, network: torch.nn.Module) -> Original:
        last = len(network.get_submodule("transformer_blocks")) - 1  # type: ignore[arg-type]
        return (*ORIGINAL, (f"transformer_blocks.{last}.norm1_context.linear_1", f"blocks.{last}.mod_y"))

    def inputs(self, index: PipelineIndex, network: torch.nn.Module, sampling: Sampling) -> dict[str, Any]:
        config: Any = network.config
        both = 2 if sampling.guidance_scale > 1 else 1
        return {
            "hidden_states": like(both, config.in_channels, *latent_sizes(sampling, time=6)),
            "encoder_hidden_states": like(both, TEXT_TOKENS, config.text_embed_dim),
            "timestep": like(both),
            "encoder_attention_mask": like(both, TEXT_TOKENS, dtype=torch.bool),
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
