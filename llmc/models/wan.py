"""Wan2.1 in diffusers layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from llmc.models.base import (
    Layout,
    LinearGroup,
    ModelAdapter,
    OnStep,
    Part,
    Renames,
    Sample,
    Sampling,
    Video,
    named_blocks,
    quiet_libraries,
    stored_dtype,
)

LIGHTX2V: Renames = (
    ("patch_embedding", "patch_embedding"),
    ("vace_patch_embedding", "vace_patch_embedding"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("condition_embedder.image_embedder.pos_embed", "img_emb.emb_pos"),
    ("condition_embedder.image_embedder.norm1", "img_emb.proj.0"),
    ("condition_embedder.image_embedder.ff.net.0.proj", "img_emb.proj.1"),
    ("condition_embedder.image_embedder.ff.net.2", "img_emb.proj.3"),
    ("condition_embedder.image_embedder.norm2", "img_emb.proj.4"),
    ("scale_shift_table", "head.modulation"),
    ("proj_out", "head.head"),
    ("vace_blocks.{}.proj_in", "vace_blocks.{}.before_proj"),
    ("vace_blocks.{}.proj_out", "vace_blocks.{}.after_proj"),
    *(
        (f"{blocks}.{{}}.{ours}", f"{blocks}.{{}}.{theirs}")
        for blocks in ("blocks", "vace_blocks")
        for ours, theirs in (
            ("scale_shift_table", "modulation"),
            ("affine_norm1", "affine_norm1"),
            ("attn1.to_q", "self_attn.q"),
            ("attn1.to_k", "self_attn.k"),
            ("attn1.to_v", "self_attn.v"),
            ("attn1.to_out.0", "self_attn.o"),
            ("attn1.norm_q", "self_attn.norm_q"),
            ("attn1.norm_k", "self_attn.norm_k"),
            ("norm2", "norm3"),
            ("attn2.to_q", "cross_attn.q"),
            ("attn2.to_k", "cross_attn.k"),
            ("attn2.to_v", "cross_attn.v"),
            ("attn2.add_k_proj", "cross_attn.k_img"),
            ("attn2.add_v_proj", "cross_attn.v_img"),
            ("attn2.to_out.0", "cross_attn.o"),
            ("attn2.norm_q", "cross_attn.norm_q"),
            ("attn2.norm_k", "cross_attn.norm_k"),
            ("attn2.norm_added_k", "cross_attn.norm_k_img"),
            ("affine_norm3", "affine_norm3"),
            ("ffn.net.0.proj", "ffn.0"),
            ("ffn.net.2", "ffn.2"),
        )
    ),
)


# Who can absorb a scale of each input: a norm that is modulated (norm1, norm3) or affine (norm2), or the linears whose
# outputs attention averages into it (v -> o). Nobody: the text and image context is shared by all blocks, and a GELU
# stands before ffn.net.2.
LAYOUT: Layout = {
    "WanTransformerBlock": (
        LinearGroup(("attn1.to_q", "attn1.to_k", "attn1.to_v"), fold=("norm1",)),
        LinearGroup(("attn1.to_out.0",), fold=("attn1.to_v",), attention="attn1"),
        LinearGroup(("attn2.to_q",), fold=("norm2",)),
        LinearGroup(("attn2.to_k", "attn2.to_v")),
        LinearGroup(("attn2.add_k_proj", "attn2.add_v_proj")),
        LinearGroup(("attn2.to_out.0",), fold=("attn2.to_v", "attn2.add_v_proj"), attention="attn2"),
        LinearGroup(("ffn.net.0.proj",), fold=("norm3",)),
        LinearGroup(("ffn.net.2",)),
    )
}


class WanI2V(ModelAdapter):
    """Wan2.1 image-to-video, in diffusers layout."""

    name: Literal["WanI2V"] = "WanI2V"
    pipeline: ClassVar[str] = "WanImageToVideoPipeline"
    renames: ClassVar[Mapping[str, Renames]] = {"lightx2v": LIGHTX2V, "comfyui": LIGHTX2V}
    needs_image: ClassVar[bool] = True

    @classmethod
    def check_sampling(cls, height: int, width: int, num_frames: int) -> list[str]:
        problems = [
            f"{name} is {size}; it must be a multiple of 16, such as {max(16, round(size / 16) * 16)}"
            for name, size in (("target_height", height), ("target_width", width)) if size % 16
        ]  # fmt: skip
        if num_frames % 4 != 1:
            problems.append(f"num_frames is {num_frames}; Wan makes 4k + 1 frames, such as {num_frames // 4 * 4 + 1}")
        return problems

    def load(self, path: Path, torch_dtype: str, device: str) -> Any:
        quiet_libraries()
        from diffusers import WanImageToVideoPipeline

        dtype = stored_dtype(path / "transformer") if torch_dtype == "auto" else getattr(torch, torch_dtype)
        # the autoencoder and the image encoder are small, and their rounding errors would be seen in every frame
        dtypes = {"default": dtype, "vae": torch.float32, "image_encoder": torch.float32}
        pipeline = WanImageToVideoPipeline.from_pretrained(path, dtype=dtypes, local_files_only=True)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.to(device)

    def skeleton(self, path: Path) -> list[Part]:
        quiet_libraries()
        from diffusers import WanTransformer3DModel

        with torch.device("meta"):
            return [_part(WanTransformer3DModel.from_config(WanTransformer3DModel.load_config(path / "transformer")))]

    def parts(self, pipeline: Any) -> list[Part]:
        return [_part(pipeline.transformer)]

    def generate(self, pipeline: Any, sample: Sample, sampling: Sampling, on_step: OnStep | None = None) -> Video:
        from PIL import Image, ImageOps

        assert sample.image is not None
        latents: list[torch.Tensor] = []

        def after_step(_: Any, index: int, timestep: Any, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            latents[:] = [values["latents"]]
            if on_step is not None:
                on_step(index + 1)
            return {}

        with Image.open(sample.image) as image:
            first_frame = ImageOps.fit(image.convert("RGB"), (sampling.width, sampling.height))
        frames = pipeline(
            image=first_frame, prompt=sample.prompt, negative_prompt=sample.negative_prompt,
            height=sampling.height, width=sampling.width, num_frames=sampling.num_frames,
            num_inference_steps=sampling.steps, guidance_scale=sampling.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(sampling.seed),
            max_sequence_length=512,  # diffusers' attention splits text from image tokens at 512, whatever is asked for
            output_type="np", callback_on_step_end=after_step, callback_on_step_end_tensor_inputs=["latents"],
        ).frames[0]  # fmt: skip
        return Video(torch.from_numpy((frames * 255).round().astype("uint8")), latents[0].float().cpu())


def _part(transformer: torch.nn.Module) -> Part:
    return Part("transformer", transformer, named_blocks(transformer, "blocks"), LAYOUT)
