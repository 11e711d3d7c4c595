"""LTX-2 and LTX-2.3: video with its sound, two streams of tokens in one transformer."""

from __future__ import annotations

from math import prod
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from llmc.models.base import like
from llmc.models.index import PipelineIndex
from llmc.models.one_transformer import OneTransformer, latent_sizes, text_tokens
from llmc.models.parts import Layout, LinearGroup
from llmc.models.samples import Sample, Sampling
from llmc.renames import Original

# The names of the repository that LTX-2 comes from, which ComfyUI reads too
ORIGINAL: Original = (
    ("proj_in", "patchify_proj"),
    ("audio_proj_in", "audio_patchify_proj"),
    *((f"{kind}time_embed", f"{kind}adaln_single") for kind in ("", "audio_")),
    *((f"{kind}prompt_adaln", f"{kind}prompt_adaln_single") for kind in ("", "audio_")),
    *((f"{kind}caption_projection", f"{kind}caption_projection") for kind in ("", "audio_")),
    *((f"{kind}scale_shift_table", f"{kind}scale_shift_table") for kind in ("", "audio_")),
    *((f"{kind}proj_out", f"{kind}proj_out") for kind in ("", "audio_")),
    *(
        (f"av_cross_attn_{ours}", f"av_ca_{theirs}_adaln_single")
        for ours, theirs in (
            ("video_scale_shift", "video_scale_shift"), ("audio_scale_shift", "audio_scale_shift"),
            ("video_a2v_gate", "a2v_gate"), ("audio_v2a_gate", "v2a_gate"),
        )
    ),
    *(
        (f"transformer_blocks.{{}}.{kind}_a2v_cross_attn_scale_shift_table",
         f"transformer_blocks.{{}}.scale_shift_table_a2v_ca_{kind}")
        for kind in ("video", "audio")
    ),
    *(
        (f"transformer_blocks.{{}}.{attention}.{ours}", f"transformer_blocks.{{}}.{attention}.{theirs}")
        for attention in (
            "attn1", "audio_attn1", "attn2", "audio_attn2", "audio_to_video_attn", "video_to_audio_attn",
        )
        for ours, theirs in (
            ("norm_q", "q_norm"), ("norm_k", "k_norm"),
            *((linear, linear) for linear in ("to_q", "to_k", "to_v", "to_out.0", "to_gate_logits")),
        )
    ),
    *(
        (f"transformer_blocks.{{}}.{kind}{own}", f"transformer_blocks.{{}}.{kind}{own}")
        for kind in ("", "audio_")
        for own in ("ff", "scale_shift_table", "prompt_scale_shift_table")
    ),
)  # fmt: skip
TEXT_TOKENS = 1024
FRAME_RATE = 24
BOTH, WITHOUT_ATTENTION, APART = "uncond+cond", "perturbed", "isolated"  # calls of one step


def attending(name: str, itself: bool = False) -> tuple[LinearGroup, ...]:
    """The groups of an attention. Norms have no weight, and a table plus time modulates them, so that nobody absorbs a
    scale of what they give. A gate is one number for a head, so that v absorbs one of the output; gates stay float."""
    q, k, v = (f"{name}.to_{letter}" for letter in "qkv")
    read = (LinearGroup((q, k, v)),) if itself else (LinearGroup((q,)), LinearGroup((k, v)))
    return *read, LinearGroup((f"{name}.to_out.0",), (v,), attention=name)


LAYOUT: Layout = {
    "LTX2VideoTransformerBlock": (
        *attending("attn1", itself=True),
        *attending("audio_attn1", itself=True),
        *attending("attn2"),
        *attending("audio_attn2"),
        *attending("audio_to_video_attn"),
        *attending("video_to_audio_attn"),
        LinearGroup(("ff.net.0.proj",)),
        LinearGroup(("ff.net.2",)),
        LinearGroup(("audio_ff.net.0.proj",)),
        LinearGroup(("audio_ff.net.2",)),
    )
}


class LTX2(OneTransformer):
    """LTX-2 and LTX-2.3, text to video with sound."""

    name: Literal["LTX2"] = "LTX2"
    audio_guidance_scale: float | None = Field(
        None, ge=0, le=1000, description="guidance of the sound, where it is on; default: guidance_scale"
    )
    stg_scale: float = Field(
        0.0, ge=0, le=1000, description="guidance by a call whose blocks `stg_blocks` do not attend; 0: none"
    )
    stg_blocks: tuple[int, ...] = Field((28,), max_length=100, description="the blocks that do not attend in that call")
    modality_scale: float = Field(
        1.0, ge=0, le=1000, description="guidance by a call in which video and sound do not see one another; 1: none"
    )
    known_as: ClassVar[tuple[str, ...]] = ("LTX-2", "LTX-2.3")
    pipeline: ClassVar[str] = "LTX2Pipeline"
    network: ClassVar[str] = "LTX2VideoTransformer3DModel"
    blocks: ClassVar[tuple[str, ...]] = ("transformer_blocks",)
    layout: ClassVar[Layout] = LAYOUT
    float32: ClassVar[tuple[str, ...]] = ("vae", "audio_vae", "vocoder")
    branches: ClassVar[tuple[str, ...]] = (BOTH,)  # one call has both, one above the other
    multiple: ClassVar[int] = 32
    frame_step: ClassVar[int] = 8

    @classmethod
    def original(cls, network: torch.nn.Module) -> Original:
        return ORIGINAL

    def branches_of(self, sampling: Sampling) -> tuple[str, ...]:
        more = {WITHOUT_ATTENTION: self.stg_scale > 0, APART: self.modality_scale > 1}
        return *super().branches_of(sampling), *(branch for branch, asked in more.items() if asked)

    def inputs(self, index: PipelineIndex, network: torch.nn.Module, sampling: Sampling) -> dict[str, Any]:
        config: Any = network.config
        vae = index.config("vae")
        halvings = sum(vae.get("spatio_temporal_scaling", (True,) * 3))
        sizes = latent_sizes(sampling, vae.get("patch_size", 4) * 2**halvings, vae.get("patch_size_t", 1) * 2**halvings)
        video, both = prod(sizes), 2 if sampling.guidance_scale > 1 else 1
        per_second = config.audio_sampling_rate / config.audio_hop_length / config.audio_scale_factor
        sound = round(sampling.num_frames / FRAME_RATE * per_second)
        text = text_tokens(index, "tokenizer", TEXT_TOKENS)
        return {
            "hidden_states": like(both, video, config.in_channels),
            "audio_hidden_states": like(both, sound, config.audio_in_channels),
            "encoder_hidden_states": like(both, text, config.cross_attention_dim),
            "audio_encoder_hidden_states": like(both, text, config.audio_cross_attention_dim),
            "timestep": like(both),
            "sigma": like(both),
            "encoder_attention_mask": like(both, text, dtype=torch.int64),
            "audio_encoder_attention_mask": like(both, text, dtype=torch.int64),
            "video_coords": like(both, 3, video, 2),
            "audio_coords": like(both, 1, sound, 2),
        }

    def frames(self, pipeline: Any, sample: Sample, sampling: Sampling, **common: Any) -> Any:
        sound = sampling.guidance_scale if self.audio_guidance_scale is None else self.audio_guidance_scale
        return pipeline(
            prompt=sample.prompt,
            negative_prompt=sample.negative_prompt,
            num_frames=sampling.num_frames,
            guidance_scale=sampling.guidance_scale,
            audio_guidance_scale=sound,
            stg_scale=self.stg_scale,
            audio_stg_scale=self.stg_scale,
            spatio_temporal_guidance_blocks=list(self.stg_blocks),
            modality_scale=self.modality_scale,
            audio_modality_scale=self.modality_scale,
            max_sequence_length=min(TEXT_TOKENS, pipeline.tokenizer.model_max_length),
            **common,
        ).frames[0]
