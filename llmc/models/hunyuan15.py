"""HunyuanVideo-1.5, of text and of a first frame; each guided by a second call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch

from llmc.models.base import like
from llmc.models.hunyuan import ORIGINAL as HUNYUAN
from llmc.models.index import PipelineIndex
from llmc.models.mmdit import DOUBLE_STREAM
from llmc.models.one_transformer import OneTransformer, fitted, latent_sizes
from llmc.models.parts import Layout
from llmc.models.samples import Sample, Sampling
from llmc.renames import Fused, Original

QKV = {"img": ("to_q", "to_k", "to_v"), "txt": ("add_q_proj", "add_k_proj", "add_v_proj")}
IN_BOTH = ("img_in.", "txt_in.", "double_blocks.", "final_layer.")

# The names of its own repository, which LightX2V reads too; unlike HunyuanVideo's, q, k and v of the blocks are apart
ORIGINAL: Original = (
    *(
        row
        for row in HUNYUAN
        for target in (row[1] if isinstance(row, tuple) else row.target,)
        if target.startswith(IN_BOTH) and not (isinstance(row, Fused) and target.startswith("double_blocks."))
    ),
    *(
        (f"transformer_blocks.{{}}.attn.{ours}", f"double_blocks.{{}}.{stream}_attn_{theirs}")
        for stream, names in QKV.items()
        for ours, theirs in zip(names, "qkv", strict=True)
    ),
    *(
        (f"time_embed.{ours}.linear_{number}", f"{theirs}.mlp.{index}")
        for ours, theirs in (("timestep_embedder", "time_in"), ("timestep_embedder_r", "time_r_in"))
        for number, index in ((1, 0), (2, 2))
    ),
    ("cond_type_embed", "cond_type_embedding"),
    ("context_embedder_2.norm", "byt5_in.layernorm"),
    *((f"context_embedder_2.linear_{number}", f"byt5_in.fc{number}") for number in (1, 2, 3)),
    ("image_embedder.norm_in", "vision_in.proj.0"),
    ("image_embedder.linear_1", "vision_in.proj.1"),
    ("image_embedder.linear_2", "vision_in.proj.3"),
    ("image_embedder.norm_out", "vision_in.proj.4"),
)
# tokens of what is read beside the video, whatever the prompt is: diffusers has them in its code
TEXT_TOKENS, GLYPH_TOKENS, IMAGE_TOKENS = 1000, 256, 729
LAYOUT: Layout = {"HunyuanVideo15TransformerBlock": DOUBLE_STREAM}


class HunyuanVideo15(OneTransformer):
    """HunyuanVideo-1.5, text to video."""

    name: Literal["HunyuanVideo15"] = "HunyuanVideo15"
    known_as: ClassVar[tuple[str, ...]] = ("HunyuanVideo-1.5", "HunyuanVideo-1.5-T2V")
    pipeline: ClassVar[str] = "HunyuanVideo15Pipeline"
    network: ClassVar[str] = "HunyuanVideo15Transformer3DModel"
    blocks: ClassVar[tuple[str, ...]] = ("transformer_blocks",)  # those that refine the text stay float
    layout: ClassVar[Layout] = LAYOUT
    float32: ClassVar[tuple[str, ...]] = ("vae",)
    frame_step: ClassVar[int] = 4

    @classmethod
    def original(cls, network: torch.nn.Module) -> Original:
        return ORIGINAL

    def inputs(self, index: PipelineIndex, network: torch.nn.Module, sampling: Sampling) -> dict[str, Any]:
        config: Any = network.config
        vae = index.config("vae")
        space, time = vae.get("spatial_compression_ratio", 16), vae.get("temporal_compression_ratio", 4)
        return {
            "hidden_states": like(1, config.in_channels, *latent_sizes(sampling, space, time)),
            "timestep": like(1),
            "encoder_hidden_states": like(1, TEXT_TOKENS, config.text_embed_dim),
            "encoder_attention_mask": like(1, TEXT_TOKENS),
            "encoder_hidden_states_2": like(1, GLYPH_TOKENS, config.text_embed_2_dim),
            "encoder_attention_mask_2": like(1, GLYPH_TOKENS),
            "image_embeds": like(1, IMAGE_TOKENS, config.image_embed_dim),
        }

    def frames(self, pipeline: Any, sample: Sample, sampling: Sampling, **common: Any) -> Any:
        with guided(pipeline, sampling.guidance_scale):
            return pipeline(
                prompt=sample.prompt,
                negative_prompt=sample.negative_prompt,
                num_frames=sampling.num_frames,
                **common,
            ).frames[0]


class HunyuanVideo15I2V(HunyuanVideo15):
    """HunyuanVideo-1.5, image to video."""

    name: Literal["HunyuanVideo15I2V"] = "HunyuanVideo15I2V"  # type: ignore[assignment]
    known_as: ClassVar[tuple[str, ...]] = ("HunyuanVideo-1.5", "HunyuanVideo-1.5-I2V")
    pipeline: ClassVar[str] = "HunyuanVideo15ImageToVideoPipeline"
    needs_image: ClassVar[bool] = True

    def frames(self, pipeline: Any, sample: Sample, sampling: Sampling, **common: Any) -> Any:
        height, width = common.pop("height"), common.pop("width")
        processor = pipeline.video_processor
        processor.calculate_default_height_width = lambda **_: (height, width)  # else one near the picture's own
        try:
            return super().frames(pipeline, sample, sampling, image=fitted(sample.image, width, height), **common)
        finally:
            del processor.calculate_default_height_width


@contextmanager
def guided(pipeline: Any, scale: float) -> Iterator[None]:
    """Guide so much: a component of the pipeline does that, no argument of the call."""
    own, pipeline.guider = pipeline.guider, pipeline.guider.new(guidance_scale=max(scale, 1.0))
    try:
        yield
    finally:
        pipeline.guider = own
