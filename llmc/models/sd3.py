"""Stable Diffusion 3 medium and 3.5 medium."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch

from llmc.models.base import like
from llmc.models.index import PipelineIndex
from llmc.models.mmdit import adaptive
from llmc.models.one_transformer import OneTransformer, image_compression, of_diffusers, text_tokens
from llmc.models.parts import Layout, LinearGroup, Modulation
from llmc.models.samples import Sample, Sampling
from llmc.renames import Fused, Original, Renames, Swapped

# The names of the repository that SD3 comes from, which ComfyUI reads too
ORIGINAL: Original = (
    ("pos_embed.pos_embed", "pos_embed"),
    ("pos_embed.proj", "x_embedder.proj"),
    ("context_embedder", "context_embedder"),
    *(
        (f"time_text_embed.{ours}.linear_{number}", f"{theirs}.mlp.{index}")
        for ours, theirs in (("timestep_embedder", "t_embedder"), ("text_embedder", "y_embedder"))
        for number, index in ((1, 0), (2, 2))
    ),
    *(
        row
        for ours, theirs, (q, k, v), (norm_q, norm_k), o in (
            ("attn", "x_block.attn", ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"), "to_out.0"),
            ("attn2", "x_block.attn2", ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"), "to_out.0"),
            ("attn", "context_block.attn", ("add_q_proj", "add_k_proj", "add_v_proj"),
             ("norm_added_q", "norm_added_k"), "to_add_out"),
        )
        for row in (
            Fused(tuple(f"transformer_blocks.{{}}.{ours}.{name}" for name in (q, k, v)),
                  f"joint_blocks.{{}}.{theirs}.qkv"),
            (f"transformer_blocks.{{}}.{ours}.{norm_q}", f"joint_blocks.{{}}.{theirs}.ln_q"),
            (f"transformer_blocks.{{}}.{ours}.{norm_k}", f"joint_blocks.{{}}.{theirs}.ln_k"),
            (f"transformer_blocks.{{}}.{ours}.{o}", f"joint_blocks.{{}}.{theirs}.proj"),
        )
    ),
    *(
        row
        for stream, norm, ff in (("x", "norm1", "ff"), ("context", "norm1_context", "ff_context"))
        for row in (
            (f"transformer_blocks.{{}}.{norm}.linear", f"joint_blocks.{{}}.{stream}_block.adaLN_modulation.1"),
            (f"transformer_blocks.{{}}.{ff}.net.0.proj", f"joint_blocks.{{}}.{stream}_block.mlp.fc1"),
            (f"transformer_blocks.{{}}.{ff}.net.2", f"joint_blocks.{{}}.{stream}_block.mlp.fc2"),
        )
    ),
    Swapped("norm_out.linear", "final_layer.adaLN_modulation.1"),
    ("proj_out", "final_layer.linear"),
)  # fmt: skip

# Who can absorb a scale of each input: the linear that modulates the norm before; the last block's context has another,
# with scale before shift. The second attention (3.5) sees the image alone, so that its v can absorb what its output
# projection reads. Nobody: the joint attention's outputs of image and text mix the values of both streams, so that a
# scale of one would be a scale of the other; a GELU stands before net.2.
LAYOUT: Layout = {
    "JointTransformerBlock": (
        LinearGroup(
            ("attn.to_q", "attn.to_k", "attn.to_v"), (*adaptive("norm1.linear", 6), *adaptive("norm1.linear", 9))
        ),
        LinearGroup(
            ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
            (*adaptive("norm1_context.linear", 6), Modulation("norm1_context.linear", 2, scale=(0,), shift=(1,))),
        ),
        LinearGroup(("attn.to_out.0",)),
        LinearGroup(("attn.to_add_out",)),
        LinearGroup(("attn2.to_q", "attn2.to_k", "attn2.to_v"), adaptive("norm1.linear", 9, norm=2)),
        LinearGroup(("attn2.to_out.0",), ("attn2.to_v",), attention="attn2"),
        LinearGroup(
            ("ff.net.0.proj",), (*adaptive("norm1.linear", 6, norm=1), *adaptive("norm1.linear", 9, norm=1))
        ),
        LinearGroup(("ff.net.2",)),
        LinearGroup(("ff_context.net.0.proj",), adaptive("norm1_context.linear", 6, norm=1)),
        LinearGroup(("ff_context.net.2",)),
    )
}  # fmt: skip


CLIP_TOKENS = 77


class SD3(OneTransformer):
    """Stable Diffusion 3 and 3.5 medium, text to image."""

    name: Literal["SD3"] = "SD3"
    known_as: ClassVar[tuple[str, ...]] = (
        "SD3",
        "SD3-Medium",
        "stable-diffusion-3-medium",
        "stable-diffusion-3.5-medium",
    )
    pipeline: ClassVar[str] = "StableDiffusion3Pipeline"
    network: ClassVar[str] = "SD3Transformer2DModel"
    renames: ClassVar[Mapping[str, Renames]] = {
        "mindie": of_diffusers(
            "pos_embed", "context_embedder", "time_text_embed", "transformer_blocks", "norm_out", "proj_out"
        )
    }
    blocks: ClassVar[tuple[str, ...]] = ("transformer_blocks",)
    layout: ClassVar[Layout] = LAYOUT
    branches: ClassVar[tuple[str, ...]] = ("uncond+cond",)  # one call has both, one above the other
    makes_images: ClassVar[bool] = True

    @classmethod
    def original(cls, network: torch.nn.Module) -> Original:
        last = len(network.get_submodule("transformer_blocks")) - 1  # type: ignore[arg-type]
        return (
            *ORIGINAL,
            Swapped(
                f"transformer_blocks.{last}.norm1_context.linear",
                f"joint_blocks.{last}.context_block.adaLN_modulation.1",
            ),
        )

    @classmethod
    def reach(cls, index: PipelineIndex) -> dict[str, int]:
        config = index.config("transformer")
        side = config.get("pos_embed_max_size", 96) * config.get("patch_size", 2) * image_compression(index)
        return {"target_height": side, "target_width": side}

    def inputs(self, index: PipelineIndex, network: torch.nn.Module, sampling: Sampling) -> dict[str, Any]:
        config: Any = network.config
        side, both = image_compression(index), 2 if sampling.guidance_scale > 1 else 1
        text = CLIP_TOKENS + (text_tokens(index, "tokenizer_3", 256) if "tokenizer_3" in index.components else 256)
        return {
            "hidden_states": like(both, config.in_channels, sampling.height // side, sampling.width // side),
            "timestep": like(both),
            "encoder_hidden_states": like(both, text, config.joint_attention_dim),
            "pooled_projections": like(both, config.pooled_projection_dim),
        }

    def frames(self, pipeline: Any, sample: Sample, sampling: Sampling, **common: Any) -> Any:
        longest = 256 if pipeline.tokenizer_3 is None else min(256, pipeline.tokenizer_3.model_max_length)
        return pipeline(
            prompt=sample.prompt,
            negative_prompt=sample.negative_prompt,
            guidance_scale=sampling.guidance_scale,
            max_sequence_length=longest,
            **common,
        ).images
