"""Z-Image and Z-Image-Turbo, text to image: one stream of text and picture."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch

from llmc.models.base import like
from llmc.models.index import PipelineIndex
from llmc.models.one_transformer import OneTransformer, image_compression
from llmc.models.parts import Layout, LinearGroup
from llmc.models.samples import Sample, Sampling
from llmc.renames import Fused, Original

BLOCKS = ("noise_refiner", "context_refiner", "layers")

# The names of the repository that it comes from, which ComfyUI reads too
ORIGINAL: Original = (
    ("all_x_embedder.2-1", "x_embedder"),
    ("all_final_layer.2-1", "final_layer"),
    ("t_embedder", "t_embedder"),
    ("cap_embedder", "cap_embedder"),
    ("x_pad_token", "x_pad_token"),
    ("cap_pad_token", "cap_pad_token"),
    *(
        row
        for blocks in BLOCKS
        for row in (
            Fused(tuple(f"{blocks}.{{}}.attention.to_{letter}" for letter in "qkv"), f"{blocks}.{{}}.attention.qkv"),
            (f"{blocks}.{{}}.attention.to_out.0", f"{blocks}.{{}}.attention.out"),
            (f"{blocks}.{{}}.attention.norm_q", f"{blocks}.{{}}.attention.q_norm"),
            (f"{blocks}.{{}}.attention.norm_k", f"{blocks}.{{}}.attention.k_norm"),
        )
    ),
    *(
        (f"{blocks}.{{}}.{module}", f"{blocks}.{{}}.{module}")
        for blocks in BLOCKS
        for module in (
            "feed_forward", "attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2", "adaLN_modulation",
        )
    ),
)  # fmt: skip
TEXT_TOKENS = 512

# Norms are affine, and time multiplies what they give, channel by channel. The feed-forward is w2(silu(w1 x) * w3 x).
LAYOUT: Layout = {
    "ZImageTransformerBlock": (
        LinearGroup(("attention.to_q", "attention.to_k", "attention.to_v"), ("attention_norm1",)),
        LinearGroup(("attention.to_out.0",), ("attention.to_v",), attention="attention"),
        LinearGroup(("feed_forward.w1", "feed_forward.w3"), ("ffn_norm1",)),
        LinearGroup(("feed_forward.w2",), ("feed_forward.w3",)),
    )
}


class ZImage(OneTransformer):
    """Z-Image and Z-Image-Turbo, text to image."""

    name: Literal["ZImage"] = "ZImage"
    known_as: ClassVar[tuple[str, ...]] = ("Z-Image", "Z-Image-Turbo")
    pipeline: ClassVar[str] = "ZImagePipeline"
    network: ClassVar[str] = "ZImageTransformer2DModel"
    # blocks that refine noise and text are of the same class, and every later one reads their outputs: they stay float
    blocks: ClassVar[tuple[str, ...]] = ("layers",)
    layout: ClassVar[Layout] = LAYOUT
    branches: ClassVar[tuple[str, ...]] = ("cond+uncond",)  # one call has both, one beside the other
    makes_images: ClassVar[bool] = True
    prompt_sized: ClassVar[frozenset[str]] = frozenset({"cap_feats"})

    @classmethod
    def original(cls, network: torch.nn.Module) -> Original:
        return ORIGINAL

    def inputs(self, index: PipelineIndex, network: torch.nn.Module, sampling: Sampling) -> dict[str, Any]:
        config: Any = network.config
        side, both = image_compression(index), 2 if sampling.guidance_scale > 1 else 1
        picture = (config.in_channels, 1, sampling.height // side, sampling.width // side)
        return {
            "x": [like(*picture) for _ in range(both)],
            "t": like(both),
            "cap_feats": [like(TEXT_TOKENS, config.cap_feat_dim) for _ in range(both)],
        }

    def frames(self, pipeline: Any, sample: Sample, sampling: Sampling, **common: Any) -> Any:
        return pipeline(
            prompt=sample.prompt,
            negative_prompt=sample.negative_prompt,
            guidance_scale=sampling.guidance_scale,
            max_sequence_length=TEXT_TOKENS,
            **common,
        ).images
