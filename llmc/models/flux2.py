"""FLUX.2 klein, which is guided by a second call, or distilled to need none."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch

from llmc.errors import AdapterError
from llmc.models.base import like
from llmc.models.flux import double_block_rows
from llmc.models.index import PipelineIndex
from llmc.models.mmdit import IMAGE, TEXT
from llmc.models.one_transformer import OneTransformer, image_compression, text_tokens
from llmc.models.parts import Layout, LinearGroup, Rows
from llmc.models.samples import Sample, Sampling
from llmc.renames import Original, Swapped

# The names of the repository that FLUX.2 comes from, which ComfyUI reads too
ORIGINAL: Original = (
    ("x_embedder", "img_in"),
    ("context_embedder", "txt_in"),
    *(
        (f"time_guidance_embed.{ours}_embedder.linear_{number}", f"{theirs}_in.{side}_layer")
        for ours, theirs in (("timestep", "time"), ("guidance", "guidance"))
        for number, side in ((1, "in"), (2, "out"))
    ),
    *(
        (f"{modulation}.linear", f"{modulation}.lin")
        for modulation in ("double_stream_modulation_img", "double_stream_modulation_txt", "single_stream_modulation")
    ),
    *double_block_rows("linear_in", "linear_out"),
    ("single_transformer_blocks.{}.attn.to_qkv_mlp_proj", "single_blocks.{}.linear1"),
    ("single_transformer_blocks.{}.attn.to_out", "single_blocks.{}.linear2"),
    ("single_transformer_blocks.{}.attn.norm_q.weight", "single_blocks.{}.norm.query_norm.scale"),
    ("single_transformer_blocks.{}.attn.norm_k.weight", "single_blocks.{}.norm.key_norm.scale"),
    Swapped("norm_out.linear", "final_layer.adaLN_modulation.1"),
    ("proj_out", "final_layer.linear"),
)  # fmt: skip
TEXT_TOKENS = 512

# One linear of the network modulates the norms of all blocks, so that no block can absorb a scale of what they give.
# A gate goes through SiLU, and the other half of linear_in is multiplied by it. Of a single block's to_out the first
# channels are what attention gives, beside such products.
LAYOUT: Layout = {
    "Flux2TransformerBlock": tuple(
        group
        for stream in (IMAGE, TEXT)
        for group in (
            LinearGroup(stream.qkv),
            LinearGroup((stream.out,)),
            LinearGroup((f"{stream.ff}.linear_in",)),
            LinearGroup((f"{stream.ff}.linear_out",), (Rows(f"{stream.ff}.linear_in", 2, 1),)),
        )
    ),
    "Flux2SingleTransformerBlock": (LinearGroup(("attn.to_qkv_mlp_proj",)), LinearGroup(("attn.to_out",))),
}


class Flux2Klein(OneTransformer):
    """FLUX.2 klein, text to image."""

    name: Literal["Flux2Klein"] = "Flux2Klein"
    known_as: ClassVar[tuple[str, ...]] = ("FLUX.2-klein", "FLUX.2-klein-4B", "FLUX.2-klein-9B")
    pipeline: ClassVar[str] = "Flux2KleinPipeline"
    network: ClassVar[str] = "Flux2Transformer2DModel"
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
        text = text_tokens(index, "tokenizer", TEXT_TOKENS)
        return {
            "hidden_states": like(1, image, config.in_channels),
            "encoder_hidden_states": like(1, text, config.joint_attention_dim),
            "timestep": like(1),
            "img_ids": like(1, image, 4, dtype=torch.int64),
            "txt_ids": like(1, text, 4, dtype=torch.int64),
        }

    def frames(self, pipeline: Any, sample: Sample, sampling: Sampling, **common: Any) -> Any:
        if pipeline.config.is_distilled and sampling.guidance_scale > 1:
            raise AdapterError(
                f"guidance_scale is {sampling.guidance_scale:g}, and this FLUX.2 klein was distilled to need no "
                "guidance: write `guidance_scale: 1.0`, or take its base model"
            )
        return pipeline(
            prompt=sample.prompt,
            guidance_scale=sampling.guidance_scale,
            max_sequence_length=TEXT_TOKENS,
            **common,
        ).images
