"""What HunyuanVideo, FLUX.1 and Stable Diffusion 3 share: one transformer, in which text and image attend jointly."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch

from llmc.errors import AdapterError
from llmc.files.json_text import read_object_if_there
from llmc.models.base import (
    ModelAdapter,
    OnStep,
    PipelineIndex,
    Sample,
    Sampling,
    Video,
    pipeline_index,
    quiet_libraries,
)
from llmc.models.components import small_components
from llmc.models.generation import generate_video
from llmc.models.libraries import Loading
from llmc.models.networks import dtype_of, empty_network
from llmc.models.parts import Layout, LinearGroup, Modulation, Part, named_blocks
from llmc.renames import Renames


def adaptive(linear: str, chunks: int, norm: int = 0) -> tuple[Modulation]:
    """Rows of an adaptive norm's linear: (shift, scale, gate) of its first norm, then of its second, and so on."""
    return (Modulation(linear, chunks, shift=(3 * norm,), scale=(3 * norm + 1,)),)


@dataclass(frozen=True)
class Stream:
    """The modules of one of the two streams of a joint block."""

    norm: str
    qkv: tuple[str, str, str]
    norm_q: str
    norm_k: str
    out: str
    ff: str


IMAGE = Stream("norm1", ("attn.to_q", "attn.to_k", "attn.to_v"), "attn.norm_q", "attn.norm_k", "attn.to_out.0", "ff")
TEXT = Stream(
    "norm1_context",
    ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "attn.norm_added_q", "attn.norm_added_k", "attn.to_add_out", "ff_context",
)  # fmt: skip

# FLUX's and HunyuanVideo's blocks. Who can absorb a scale of each input: the linear that modulates the norm before it.
# Nobody: attention's outputs of image and text mix the values of both streams, so that a scale of one would be a scale
# of the other; a GELU stands before net.2, and before four fifths of the channels of a single block's proj_out.
DOUBLE_STREAM = tuple(
    group
    for stream in (IMAGE, TEXT)
    for group in (
        LinearGroup(stream.qkv, adaptive(f"{stream.norm}.linear", 6)),
        LinearGroup((stream.out,)),
        LinearGroup((f"{stream.ff}.net.0.proj",), adaptive(f"{stream.norm}.linear", 6, norm=1)),
        LinearGroup((f"{stream.ff}.net.2",)),
    )
)
SINGLE_STREAM = (
    LinearGroup(("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"), adaptive("norm.linear", 3)),
    LinearGroup(("proj_out",)),
)


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


class JointTransformer(ModelAdapter):
    """A family of such pipelines; how one is called is the family's own."""

    networks: ClassVar[tuple[str, ...]] = ("transformer",)
    blocks: ClassVar[tuple[str, ...]]  # the lists of its blocks, in running order
    layout: ClassVar[Layout]
    float32: ClassVar[tuple[str, ...]] = ()  # components that are kept in float32 whatever the transformer's type is

    def load(self, path: Path, torch_dtype: str, device: str, **given: torch.nn.Module) -> Any:
        quiet_libraries()
        import diffusers

        dtypes = {"default": dtype_of(path, torch_dtype, given), **dict.fromkeys(self.float32, torch.float32)}
        index = pipeline_index(path)
        # diffusers wants to be told what is not there
        components: dict[str, Any] = {**dict.fromkeys(index.absent), **small_components(index, given), **given}
        made = getattr(diffusers, self.pipeline)
        with Loading(f"the pipeline in {path}"):
            pipeline = made.from_pretrained(path, dtype=dtypes, local_files_only=True, **components)
            pipeline.set_progress_bar_config(disable=True)
            return pipeline.to(device)

    def skeleton(self, path: Path, **configs: Mapping[str, Any]) -> list[Part]:
        return [self._part(empty_network(configs.get("transformer") or pipeline_index(path).config("transformer")))]

    def parts(self, pipeline: Any) -> list[Part]:
        return [self._part(pipeline.transformer)]

    def generate(self, pipeline: Any, sample: Sample, sampling: Sampling, on_step: OnStep | None = None) -> Video:
        return generate_video(partial(self.frames, pipeline, sample, sampling), sampling, on_step)

    @abstractmethod
    def frames(self, pipeline: Any, sample: Sample, sampling: Sampling, **common: Any) -> Any:
        """Call the pipeline with what every family takes, and with its own; (frames, height, width, 3) from 0 to 1."""

    def _part(self, transformer: torch.nn.Module) -> Part:
        return Part("transformer", transformer, named_blocks(transformer, *self.blocks), self.layout)
