"""Wan2.1: what every Wan has in common, and its text-to-video, image-to-video and first-and-last-frame models."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from llmc.models.base import ModelAdapter, like, multiples, pipeline_index, quiet_libraries
from llmc.models.components import small_components
from llmc.models.generation import generate_video
from llmc.models.index import PipelineIndex, shift_of
from llmc.models.libraries import Loading
from llmc.models.networks import dtype_of, empty_network
from llmc.models.parts import Layout, LinearGroup, Part, named_blocks
from llmc.models.samples import OnStep, Sample, Sampling, Video
from llmc.models.wan_release import read_release, release_pipeline
from llmc.models.wan_vae import vae_original
from llmc.renames import Original, Renames

if TYPE_CHECKING:
    from PIL.Image import Image

    from llmc.models.parts import Expert

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

TEXT_TOKENS = 512  # diffusers' attention splits text from image tokens there, whatever is asked for

_GROUPS = (
    LinearGroup(("attn1.to_q", "attn1.to_k", "attn1.to_v"), fold=("norm1",)),
    LinearGroup(("attn1.to_out.0",), fold=("attn1.to_v",), attention="attn1"),
    LinearGroup(("attn2.to_q",), fold=("norm2",)),
    LinearGroup(("attn2.to_k", "attn2.to_v")),
    LinearGroup(("attn2.add_k_proj", "attn2.add_v_proj")),
    LinearGroup(("attn2.to_out.0",), fold=("attn2.to_v", "attn2.add_v_proj"), attention="attn2"),
    LinearGroup(("ffn.net.0.proj",), fold=("norm3",)),
    LinearGroup(("ffn.net.2",)),
)

# Who can absorb a scale of each input: a norm that is modulated (norm1, norm3) or affine (norm2), or the linears whose
# outputs attention averages into it (v -> o). Nobody: the text and image context is shared by all blocks, and a GELU
# stands before ffn.net.2. A VACE block's proj_in and proj_out stay float, as LightX2V reads them.
LAYOUT: Layout = {"WanTransformerBlock": _GROUPS, "WanVACETransformerBlock": _GROUPS}


class Wan(ModelAdapter):
    """What all variants share; each says which folders it reads, what a sample gives, and its sizes."""

    renames: ClassVar[Mapping[str, Renames]] = {"lightx2v": LIGHTX2V}
    network: ClassVar[str] = "WanTransformer3DModel"
    networks: ClassVar[tuple[str, ...]] = ("transformer", "transformer_2")
    optional: ClassVar[frozenset[str]] = frozenset({"shift", "denoising_step_list"})
    multiple: ClassVar[int] = 16  # pixels of a token's side: the autoencoder's compression times the patch

    @classmethod
    def check_sampling(cls, height: int, width: int, num_frames: int) -> list[str]:
        problems = multiples(height, width, cls.multiple)
        if num_frames % 4 != 1:
            problems.append(f"num_frames is {num_frames}; Wan makes 4k + 1 frames, such as {num_frames // 4 * 4 + 1}")
        return problems

    @classmethod
    def reach(cls, index: PipelineIndex) -> dict[str, int]:
        config = index.config("transformer")
        positions = config.get("rope_max_seq_len", 1024)  # along each axis
        frames, rows, columns = config.get("patch_size", (1, 2, 2))
        vae = {} if index.is_release else index.config("vae")  # of a release it would have to be unpickled
        space, time = vae.get("scale_factor_spatial", cls.multiple // 2), vae.get("scale_factor_temporal", 4)
        return {
            "target_height": positions * rows * space,
            "target_width": positions * columns * space,
            "num_frames": (positions * frames - 1) * time + 1,
        }

    @classmethod
    def original(cls, network: torch.nn.Module) -> Original:
        if type(network).__name__ == "AutoencoderKLWan":
            return vae_original(network)
        return LIGHTX2V  # which kept the names of the release

    @classmethod
    def release(cls, folder: Path) -> PipelineIndex | None:
        return read_release(folder)

    def load(self, path: Path, torch_dtype: str, device: str, **given: torch.nn.Module) -> Any:
        quiet_libraries()
        import diffusers

        index = pipeline_index(path)

        # the autoencoder and the image encoder are small, and their rounding errors would be seen in every frame
        dtypes = {
            "default": dtype_of(path, torch_dtype, given), "vae": torch.float32, "image_encoder": torch.float32
        }  # fmt: skip

        small = {} if index.is_release else small_components(index, given)
        with Loading(f"the pipeline in {path}"):
            if index.is_release:
                pipeline = release_pipeline(index, given)
            else:
                made = getattr(diffusers, self.pipeline)
                pipeline = made.from_pretrained(path, dtype=dtypes, local_files_only=True, **small, **given)
            pipeline.set_progress_bar_config(disable=True)
            return pipeline.to(device)

    def skeleton(self, path: Path, **configs: Mapping[str, Any]) -> list[Part]:
        index = pipeline_index(path)
        there = [name for name in self.networks if name in index.components]
        return parts_of({name: empty_network(configs.get(name) or index.config(name)) for name in there})

    def parts(self, pipeline: Any) -> list[Part]:
        components = {name: getattr(pipeline, name, None) for name in self.networks}
        return parts_of({name: module for name, module in components.items() if module is not None})

    def latent_sizes(self, index: PipelineIndex, sampling: Sampling) -> tuple[int, int, int]:
        """Frames, height and width of the latents."""
        vae = {} if index.is_release else index.config("vae")
        space, time = vae.get("scale_factor_spatial", self.multiple // 2), vae.get("scale_factor_temporal", 4)
        return (sampling.num_frames - 1) // time + 1, sampling.height // space, sampling.width // space

    def inputs(self, index: PipelineIndex, network: torch.nn.Module, sampling: Sampling) -> dict[str, Any]:
        config: Any = network.config
        found = {
            "hidden_states": like(1, config.in_channels, *self.latent_sizes(index, sampling)),
            "timestep": like(1, dtype=torch.int64),
            "encoder_hidden_states": like(1, TEXT_TOKENS, config.text_dim),
        }
        if config.image_dim is not None:
            encoder = index.config("image_encoder")
            tokens = (encoder.get("image_size", 224) // encoder.get("patch_size", 14)) ** 2 + 1
            found["encoder_hidden_states_image"] = like(1 + self.needs_last_image, tokens, config.image_dim)
        return found

    def generate(self, pipeline: Any, sample: Sample, sampling: Sampling, on_step: OnStep | None = None) -> Video:
        return run_pipeline(pipeline, sample, sampling, on_step)


class WanT2V(Wan):
    """Wan2.1 text-to-video."""

    name: Literal["WanT2V"] = "WanT2V"
    known_as: ClassVar[tuple[str, ...]] = ("Wan2_1", "Wan2.1-T2V-1.3B", "Wan2.1-T2V-14B")
    pipeline: ClassVar[str] = "WanPipeline"

    @classmethod
    def fits(cls, index: PipelineIndex) -> bool:
        return super().fits(index) and is_single(index)


class WanI2V(Wan):
    """Wan2.1 image-to-video."""

    name: Literal["WanI2V"] = "WanI2V"
    known_as: ClassVar[tuple[str, ...]] = (
        "Wan2_1", "Wan2.1-I2V-14B", "Wan2.1-I2V-14B-480P", "Wan2.1-I2V-14B-720P",
    )  # fmt: skip
    pipeline: ClassVar[str] = "WanImageToVideoPipeline"
    needs_image: ClassVar[bool] = True

    @classmethod
    def fits(cls, index: PipelineIndex) -> bool:
        return super().fits(index) and is_single(index) and not places_two_images(index)

    def generate(self, pipeline: Any, sample: Sample, sampling: Sampling, on_step: OnStep | None = None) -> Video:
        return run_pipeline(pipeline, sample, sampling, on_step, image=fitted(sample.image, sampling))


class WanFLF2V(Wan):
    """Wan2.1 video between a first and a last frame."""

    name: Literal["WanFLF2V"] = "WanFLF2V"
    known_as: ClassVar[tuple[str, ...]] = ("Wan2_1", "Wan2.1-FLF2V-14B", "Wan2.1-FLF2V-14B-720P")
    pipeline: ClassVar[str] = "WanImageToVideoPipeline"
    needs_image: ClassVar[bool] = True
    needs_last_image: ClassVar[bool] = True

    @classmethod
    def fits(cls, index: PipelineIndex) -> bool:
        return super().fits(index) and is_single(index) and places_two_images(index)

    def generate(self, pipeline: Any, sample: Sample, sampling: Sampling, on_step: OnStep | None = None) -> Video:
        first, last = fitted(sample.image, sampling), fitted(sample.last_image, sampling)
        return run_pipeline(pipeline, sample, sampling, on_step, image=first, last_image=last)


def is_single(index: PipelineIndex) -> bool:
    """Whether one transformer denoises all of it, at one time for all tokens: Wan2.1, and not Wan2.2."""
    return "transformer_2" not in index.components and not index.settings.get("expand_timesteps")


def places_two_images(index: PipelineIndex) -> bool:
    """Whether the transformer tells a first from a last image by their positions."""
    return index.config("transformer").get("pos_embed_seq_len") is not None


def parts_of(networks: Mapping[str, torch.nn.Module]) -> list[Part]:
    """The transformers of a pipeline; with two, the first denoises at high noise, the second at low."""
    experts: tuple[Expert, ...] = ("high_noise", "low_noise") if len(networks) > 1 else (None,)
    parts = []
    for (name, network), expert in zip(networks.items(), experts, strict=True):
        lists = [blocks for blocks in ("vace_blocks", "blocks") if hasattr(network, blocks)]
        # all of vace_blocks run before blocks, and what each of them gives is added after another one of blocks
        lasting = frozenset({"WanVACETransformerBlock"})
        parts.append(Part(name, network, named_blocks(network, *lists), LAYOUT, expert=expert, lasting=lasting))
    return parts


def fitted(path: Path | None, sampling: Sampling) -> Image:
    """The picture, scaled and cut to the size of the video."""
    from PIL import Image, ImageOps

    assert path is not None
    with Image.open(path) as image:
        return ImageOps.fit(image.convert("RGB"), (sampling.width, sampling.height))


def scheduler_for(pipeline: Any, sampling: Sampling) -> Any:
    """The pipeline's own scheduler, with the shift of `sampling`; Euler steps over the list of a distilled model."""
    scheduler = pipeline.scheduler
    if sampling.shift is None and sampling.denoising_step_list is None:
        return scheduler
    if sampling.denoising_step_list is None:
        key = "flow_shift" if "flow_shift" in scheduler.config else "shift"
        return type(scheduler).from_config(scheduler.config, **{key: sampling.shift})
    from diffusers import FlowMatchEulerDiscreteScheduler

    train_steps = scheduler.config.num_train_timesteps
    euler = FlowMatchEulerDiscreteScheduler(train_steps, shift=sampling.shift or shift_of(scheduler.config))
    # a pipeline asks for a number of steps; these are the ones it gets, before the shift
    euler.set_timesteps = partial(
        euler.set_timesteps, sigmas=[step / train_steps for step in sampling.denoising_step_list]
    )
    return euler


def run_pipeline(
    pipeline: Any, sample: Sample, sampling: Sampling, on_step: OnStep | None, **inputs: Any
) -> Video:  # fmt: skip
    """Generate once; `inputs` are what the variant reads beside text and sizes."""

    def frames(**common: Any) -> Any:
        return pipeline(
            prompt=sample.prompt, negative_prompt=sample.negative_prompt,
            num_frames=sampling.num_frames, guidance_scale=sampling.guidance_scale,
            max_sequence_length=TEXT_TOKENS,
            **common, **inputs,
        ).frames[0]  # fmt: skip

    own, pipeline.scheduler = pipeline.scheduler, scheduler_for(pipeline, sampling)
    try:
        return generate_video(pipeline, frames, sampling, on_step)
    finally:
        pipeline.scheduler = own
