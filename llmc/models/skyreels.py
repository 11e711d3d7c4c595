"""SkyReels-V2, text to video: Wan2.1's blocks under other class names."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch

from llmc.models.base import like
from llmc.models.index import PipelineIndex
from llmc.models.one_transformer import OneTransformer, latent_sizes
from llmc.models.parts import Layout
from llmc.models.samples import Sample, Sampling
from llmc.models.wan import LAYOUT as WAN
from llmc.models.wan import LIGHTX2V as NAMES
from llmc.models.wan import TEXT_TOKENS
from llmc.renames import Original

# Wan2.1's names, in which ComfyUI reads it, and the frame rate that some variants are told
ORIGINAL: Original = (*NAMES, ("fps_embedding", "fps_embedding"), ("fps_projection", "fps_projection"))
LAYOUT: Layout = {"SkyReelsV2TransformerBlock": WAN["WanTransformerBlock"]}


class SkyReelsV2(OneTransformer):
    """SkyReels-V2, text to video."""

    name: Literal["SkyReelsV2"] = "SkyReelsV2"
    known_as: ClassVar[tuple[str, ...]] = (
        "SkyReels-V2-T2V-14B",
        "SkyReels-V2-T2V-14B-540P",
        "SkyReels-V2-T2V-14B-720P",
    )
    pipeline: ClassVar[str] = "SkyReelsV2Pipeline"
    network: ClassVar[str] = "SkyReelsV2Transformer3DModel"
    blocks: ClassVar[tuple[str, ...]] = ("blocks",)
    layout: ClassVar[Layout] = LAYOUT
    float32: ClassVar[tuple[str, ...]] = ("vae",)
    frame_step: ClassVar[int] = 4

    @classmethod
    def original(cls, network: torch.nn.Module) -> Original:
        return ORIGINAL

    def inputs(self, index: PipelineIndex, network: torch.nn.Module, sampling: Sampling) -> dict[str, Any]:
        config: Any = network.config
        vae = index.config("vae")
        sizes = latent_sizes(sampling, vae.get("scale_factor_spatial", 8), vae.get("scale_factor_temporal", 4))
        return {
            "hidden_states": like(1, config.in_channels, *sizes),
            "timestep": like(1, dtype=torch.int64),
            "encoder_hidden_states": like(1, TEXT_TOKENS, config.text_dim),
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
