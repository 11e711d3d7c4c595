"""What families share whose pipeline of diffusers has one transformer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from llmc.errors import AdapterError
from llmc.files.json_text import read_object_if_there
from llmc.models.base import ModelAdapter, multiples, pipeline_index, quiet_libraries
from llmc.models.components import small_components
from llmc.models.generation import generate_video
from llmc.models.index import PipelineIndex
from llmc.models.libraries import Loading
from llmc.models.networks import dtype_of, empty_network
from llmc.models.parts import Layout, Part, named_blocks
from llmc.models.samples import OnStep, Sample, Sampling, Video
from llmc.renames import Renames

if TYPE_CHECKING:
    from PIL.Image import Image


class OneTransformer(ModelAdapter):
    """A family of such pipelines; how one is called is the family's own."""

    networks: ClassVar[tuple[str, ...]] = ("transformer",)
    blocks: ClassVar[tuple[str, ...]]  # the lists of its blocks, in running order
    layout: ClassVar[Layout]
    float32: ClassVar[tuple[str, ...]] = ()  # components that are kept in float32 whatever the transformer's type is
    multiple: ClassVar[int] = 16  # pixels of a token's side
    frame_step: ClassVar[int] = 1  # so many times k, and one more, are the frames of a video

    @classmethod
    def check_sampling(cls, height: int, width: int, num_frames: int) -> list[str]:
        problems = multiples(height, width, cls.multiple)
        if (num_frames - 1) % cls.frame_step:
            nearest, name = (num_frames - 1) // cls.frame_step * cls.frame_step + 1, cls.model_fields["name"].default
            problems.append(f"num_frames is {num_frames}; {name} makes {cls.frame_step}k + 1 frames, such as {nearest}")
        return problems

    def load(self, path: Path, torch_dtype: str, device: str, **given: torch.nn.Module) -> Any:
        quiet_libraries()
        import diffusers

        dtypes = {"default": dtype_of(path, torch_dtype, given), **dict.fromkeys(self.float32, torch.float32)}
        index = pipeline_index(path)
        # diffusers wants to be told what is not there
        components: dict[str, Any] = {**dict.fromkeys(index.absent), **small_components(index, given), **given}
        made = getattr(diffusers, index.class_name)
        with Loading(f"the pipeline in {path}"):
            pipeline = made.from_pretrained(path, dtype=dtypes, local_files_only=True, **components)
            pipeline.set_progress_bar_config(disable=True)
            return pipeline.to(device)

    def skeleton(self, path: Path, **configs: Mapping[str, Any]) -> list[Part]:
        return [self._part(empty_network(configs.get("transformer") or pipeline_index(path).config("transformer")))]

    def parts(self, pipeline: Any) -> list[Part]:
        return [self._part(pipeline.transformer)]

    def generate(self, pipeline: Any, sample: Sample, sampling: Sampling, on_step: OnStep | None = None) -> Video:
        return generate_video(pipeline, partial(self.frames, pipeline, sample, sampling), sampling, on_step)

    @abstractmethod
    def frames(self, pipeline: Any, sample: Sample, sampling: Sampling, **common: Any) -> Any:
        """Call the pipeline with what every family takes, and with its own; (frames, height, width, 3) from 0 to 1."""

    def blocks_of(self, transformer: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
        """Its blocks in running order, each with its name."""
        return named_blocks(transformer, *self.blocks)

    def _part(self, transformer: torch.nn.Module) -> Part:
        return Part("transformer", transformer, self.blocks_of(transformer), self.layout)


def of_diffusers(*modules: str) -> Renames:
    """The table of a target that runs diffusers' own network, whose outermost modules these are."""
    return tuple((module, module) for module in modules)


def text_tokens(index: PipelineIndex, tokenizer: str, most: int) -> int:
    """How many tokens a prompt is made into."""
    said: Mapping[str, Any] = (
        read_object_if_there(index.folder / tokenizer / "tokenizer_config.json", AdapterError) or {}
    )
    return int(min(most, said.get("model_max_length") or most))


def image_compression(index: PipelineIndex) -> int:
    """Pixels of a latent's side, of an autoencoder of images."""
    return int(2 ** (len(index.config("vae").get("block_out_channels", (0,) * 4)) - 1))


def latent_sizes(sampling: Sampling, space: int = 8, time: int = 4) -> tuple[int, int, int]:
    """Frames, height and width of a video's latents, where its autoencoder compresses so much."""
    return (sampling.num_frames - 1) // time + 1, sampling.height // space, sampling.width // space


def fitted(path: Path | None, width: int, height: int) -> Image:
    """The picture, scaled and cut to that size."""
    from PIL import Image, ImageOps

    assert path is not None
    with Image.open(path) as image:
        return ImageOps.fit(image.convert("RGB"), (width, height))
