"""HunyuanVideo, which is guidance-distilled: one call for each step."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from llmc.models.base import like
from llmc.models.index import PipelineIndex
from llmc.models.mmdit import DOUBLE_STREAM, IMAGE, SINGLE_STREAM, TEXT
from llmc.models.one_transformer import OneTransformer, latent_sizes, text_tokens
from llmc.models.parts import Layout
from llmc.models.samples import Sample, Sampling
from llmc.renames import Fused, Original, Swapped

# The names of hyvideo, the repository that HunyuanVideo comes from; MindIE and ComfyUI read them
ORIGINAL: Original = (
    ("x_embedder.proj", "img_in.proj"),
    *(
        (f"time_text_embed.{ours}.linear_{number}", f"{theirs}.mlp.{index}")
        for ours, theirs in (("timestep_embedder", "time_in"), ("guidance_embedder", "guidance_in"))
        for number, index in ((1, 0), (2, 2))
    ),
    ("time_text_embed.text_embedder.linear_1", "vector_in.in_layer"),
    ("time_text_embed.text_embedder.linear_2", "vector_in.out_layer"),
    ("context_embedder.proj_in", "txt_in.input_embedder"),
    ("context_embedder.time_text_embed.timestep_embedder.linear_1", "txt_in.t_embedder.mlp.0"),
    ("context_embedder.time_text_embed.timestep_embedder.linear_2", "txt_in.t_embedder.mlp.2"),
    ("context_embedder.time_text_embed.text_embedder.linear_1", "txt_in.c_embedder.linear_1"),
    ("context_embedder.time_text_embed.text_embedder.linear_2", "txt_in.c_embedder.linear_2"),
    *(
        (f"context_embedder.token_refiner.refiner_blocks.{{}}.{ours}",
         f"txt_in.individual_token_refiner.blocks.{{}}.{theirs}")
        for ours, theirs in (
            ("norm1", "norm1"),
            ("attn.to_out.0", "self_attn_proj"),
            ("norm2", "norm2"),
            ("ff.net.0.proj", "mlp.fc1"),
            ("ff.net.2", "mlp.fc2"),
            ("norm_out.linear", "adaLN_modulation.1"),  # two gates, in one order in both
        )
    ),
    Fused(
        tuple(f"context_embedder.token_refiner.refiner_blocks.{{}}.attn.to_{name}" for name in "qkv"),
        "txt_in.individual_token_refiner.blocks.{}.self_attn_qkv",
    ),
    *(
        row
        for ours, theirs in ((IMAGE, "img"), (TEXT, "txt"))
        for row in (
            (f"transformer_blocks.{{}}.{ours.norm}.linear", f"double_blocks.{{}}.{theirs}_mod.linear"),
            Fused(tuple(f"transformer_blocks.{{}}.{name}" for name in ours.qkv),
                  f"double_blocks.{{}}.{theirs}_attn_qkv"),
            (f"transformer_blocks.{{}}.{ours.norm_q}", f"double_blocks.{{}}.{theirs}_attn_q_norm"),
            (f"transformer_blocks.{{}}.{ours.norm_k}", f"double_blocks.{{}}.{theirs}_attn_k_norm"),
            (f"transformer_blocks.{{}}.{ours.out}", f"double_blocks.{{}}.{theirs}_attn_proj"),
            (f"transformer_blocks.{{}}.{ours.ff}.net.0.proj", f"double_blocks.{{}}.{theirs}_mlp.fc1"),
            (f"transformer_blocks.{{}}.{ours.ff}.net.2", f"double_blocks.{{}}.{theirs}_mlp.fc2"),
        )
    ),
    ("single_transformer_blocks.{}.norm.linear", "single_blocks.{}.modulation.linear"),
    Fused(
        tuple(f"single_transformer_blocks.{{}}.{name}" for name in SINGLE_STREAM[0].linears),
        "single_blocks.{}.linear1",
        shares=(1, 1, 1, 4),
    ),
    ("single_transformer_blocks.{}.attn.norm_q", "single_blocks.{}.q_norm"),
    ("single_transformer_blocks.{}.attn.norm_k", "single_blocks.{}.k_norm"),
    ("single_transformer_blocks.{}.proj_out", "single_blocks.{}.linear2"),
    Swapped("norm_out.linear", "final_layer.adaLN_modulation.1"),
    ("proj_out", "final_layer.linear"),
)  # fmt: skip

TEXT_TOKENS = 256  # beside the words set around a prompt

LAYOUT: Layout = {
    "HunyuanVideoTransformerBlock": DOUBLE_STREAM,
    "HunyuanVideoSingleTransformerBlock": SINGLE_STREAM,
}


class HunyuanVideo(OneTransformer):
    """HunyuanVideo, text to video."""

    name: Literal["HunyuanVideo"] = "HunyuanVideo"
    known_as: ClassVar[tuple[str, ...]] = ("HunyuanVideo", "HunyuanVideo-T2V-720P")
    pipeline: ClassVar[str] = "HunyuanVideoPipeline"
    network: ClassVar[str] = "HunyuanVideoTransformer3DModel"
    # the blocks that refine the text run once a step on 256 tokens, and every later block reads what they give: like
    # all that embeds, they stay float, as in the runtimes' recipes
    blocks: ClassVar[tuple[str, ...]] = ("transformer_blocks", "single_transformer_blocks")
    layout: ClassVar[Layout] = LAYOUT
    float32: ClassVar[tuple[str, ...]] = ("vae",)  # its rounding errors would be seen in every frame
    branches: ClassVar[tuple[str, ...]] = ("cond",)  # guidance is an input of the network
    frame_step: ClassVar[int] = 4

    @classmethod
    def original(cls, network: torch.nn.Module) -> Original:
        return ORIGINAL

    def inputs(self, index: PipelineIndex, network: torch.nn.Module, sampling: Sampling) -> dict[str, Any]:
        config: Any = network.config
        vae = index.config("vae")
        space, time = vae.get("spatial_compression_ratio", 8), vae.get("temporal_compression_ratio", 4)
        text = text_tokens(index, "tokenizer", TEXT_TOKENS)
        return {
            "hidden_states": like(1, config.in_channels, *latent_sizes(sampling, space, time)),
            "timestep": like(1),
            "encoder_hidden_states": like(1, text, config.text_embed_dim),
            "encoder_attention_mask": like(1, text),
            "pooled_projections": like(1, config.pooled_projection_dim),
            "guidance": like(1) if config.guidance_embeds else None,
        }

    def load(self, path: Path, torch_dtype: str, device: str, **given: torch.nn.Module) -> Any:
        pipeline = super().load(path, torch_dtype, device, **given)
        pipeline.vae.enable_tiling()  # a whole video at once would need more memory than the transformer
        return pipeline

    def frames(self, pipeline: Any, sample: Sample, sampling: Sampling, **common: Any) -> Any:
        return pipeline(
            prompt=sample.prompt,
            num_frames=sampling.num_frames,
            guidance_scale=sampling.guidance_scale,
            max_sequence_length=min(TEXT_TOKENS, pipeline.tokenizer.model_max_length),
            **common,
        ).frames[0]
