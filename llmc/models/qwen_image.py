"""Qwen-Image, and Qwen-Image-Edit in both forms."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch

from llmc.models.base import like
from llmc.models.index import PipelineIndex
from llmc.models.mmdit import adaptive
from llmc.models.one_transformer import OneTransformer, fitted, of_diffusers
from llmc.models.parts import Layout, LinearGroup
from llmc.models.samples import Sample, Sampling
from llmc.renames import Original, Renames

# The names of its own repository are diffusers'; ComfyUI reads them too
ORIGINAL: Renames = of_diffusers(
    "img_in", "txt_in", "txt_norm", "time_text_embed", "transformer_blocks", "norm_out", "proj_out"
)
TEXT_TOKENS = 512  # at most, beside the words set around a prompt

# Who can absorb a scale of each input: the block's own linear that modulates the norm before. Nobody: what attention
# gives mixes the values of text and picture; a GELU stands before net.2.
LAYOUT: Layout = {
    "QwenImageTransformerBlock": tuple(
        group
        for stream, qkv, out in (
            ("img", ("attn.to_q", "attn.to_k", "attn.to_v"), "attn.to_out.0"),
            ("txt", ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"), "attn.to_add_out"),
        )
        for group in (
            LinearGroup(qkv, adaptive(f"{stream}_mod.1", 6)),
            LinearGroup((out,)),
            LinearGroup((f"{stream}_mlp.net.0.proj",), adaptive(f"{stream}_mod.1", 6, norm=1)),
            LinearGroup((f"{stream}_mlp.net.2",)),
        )
    )
}


class QwenImage(OneTransformer):
    """Qwen-Image, text to image."""

    name: Literal["QwenImage"] = "QwenImage"
    known_as: ClassVar[tuple[str, ...]] = ("Qwen-Image", "Qwen-Image-2512")
    pipeline: ClassVar[str] = "QwenImagePipeline"
    network: ClassVar[str] = "QwenImageTransformer2DModel"
    blocks: ClassVar[tuple[str, ...]] = ("transformer_blocks",)
    layout: ClassVar[Layout] = LAYOUT
    makes_images: ClassVar[bool] = True
    prompt_sized: ClassVar[frozenset[str]] = frozenset({"encoder_hidden_states"})

    @classmethod
    def original(cls, network: torch.nn.Module) -> Original:
        return ORIGINAL

    def inputs(self, index: PipelineIndex, network: torch.nn.Module, sampling: Sampling) -> dict[str, Any]:
        config: Any = network.config
        return {
            "hidden_states": like(1, tokens(index, sampling.height, sampling.width), config.in_channels),
            "encoder_hidden_states": like(1, TEXT_TOKENS, config.joint_attention_dim),
            "timestep": like(1),
        }

    def frames(self, pipeline: Any, sample: Sample, sampling: Sampling, **common: Any) -> Any:
        guided = sampling.guidance_scale > 1
        return pipeline(
            prompt=sample.prompt,
            negative_prompt=sample.negative_prompt if guided else None,
            true_cfg_scale=sampling.guidance_scale,
            max_sequence_length=TEXT_TOKENS,
            **common,
        ).images


class QwenImageEdit(QwenImage):
    """Qwen-Image-Edit and -Edit-Plus (2509, 2511), an image changed as a prompt says."""

    name: Literal["QwenImageEdit"] = "QwenImageEdit"  # type: ignore[assignment]
    known_as: ClassVar[tuple[str, ...]] = (
        "Qwen-Image-Edit", "Qwen-Image-Edit-Plus", "Qwen-Image-Edit-2509", "Qwen-Image-Edit-2511",
    )  # fmt: skip
    pipeline: ClassVar[str] = "QwenImageEditPlusPipeline"
    needs_image: ClassVar[bool] = True

    @classmethod
    def fits(cls, index: PipelineIndex) -> bool:
        return index.class_name in (cls.pipeline, "QwenImageEditPipeline")

    def inputs(self, index: PipelineIndex, network: torch.nn.Module, sampling: Sampling) -> dict[str, Any]:
        from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as plus

        # the picture is scaled to one size whatever is asked for, and its tokens stand behind those of the noise
        width, height = plus.calculate_dimensions(plus.VAE_IMAGE_SIZE, sampling.width / sampling.height)
        found = super().inputs(index, network, sampling)
        noise, channels = found["hidden_states"].shape[1:]
        return found | {"hidden_states": like(1, noise + tokens(index, height, width), channels)}

    def frames(self, pipeline: Any, sample: Sample, sampling: Sampling, **common: Any) -> Any:
        picture = fitted(sample.image, sampling.width, sampling.height)
        return super().frames(pipeline, sample, sampling, image=picture, **common)


def tokens(index: PipelineIndex, height: int, width: int) -> int:
    """How many there are of an image: four latents make one."""
    side = 2 * int(2 ** len(index.config("vae").get("temperal_downsample", (False, True, True))))
    return (height // side) * (width // side)
