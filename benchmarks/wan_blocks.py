"""A Wan network of any width with random weights, and in place of its pipeline what only makes the network's calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from llmc.models.base import ModelAdapter
from llmc.models.parts import Part, named_blocks
from llmc.models.samples import OnStep, Sample, Sampling, Video
from llmc.models.wan import LAYOUT

TEXT_TOKENS = 512


@dataclass(frozen=True)
class Size:
    """Of the network, and of what it is called with."""

    dim: int = 768
    ffn: int = 3072
    blocks: int = 4
    tokens: int = 768
    calls: int = 8  # two to a step


@dataclass
class Calls:
    """The network and its fixed inputs: tokens of one latent, two prompts."""

    transformer: torch.nn.Module
    latents: torch.Tensor
    prompts: torch.Tensor


class WanCalls(ModelAdapter):
    """Random Wan blocks, called as a pipeline with guidance calls them."""

    name: Literal["WanCalls"] = "WanCalls"
    pipeline: ClassVar[str] = "none"

    def load(self, path: Path, torch_dtype: str, device: str, **given: torch.nn.Module) -> Any:
        raise NotImplementedError("made by `network`, not read from a folder")

    def skeleton(self, path: Path, **configs: Mapping[str, Any]) -> list[Part]:
        raise NotImplementedError("made by `network`, not read from a folder")

    def parts(self, pipeline: Any) -> list[Part]:
        transformer = pipeline.transformer
        return [Part("transformer", transformer, named_blocks(transformer, "blocks"), LAYOUT)]

    @torch.no_grad()
    def generate(self, pipeline: Any, sample: Sample, sampling: Sampling, on_step: OnStep | None = None) -> Video:
        latents = pipeline.latents
        for step in range(sampling.steps):
            timestep = torch.full((1,), 1000.0 * (1 - step / sampling.steps), device=latents.device)
            for prompt in pipeline.prompts:
                latents = latents - 0.1 * pipeline.transformer(
                    hidden_states=latents, timestep=timestep, encoder_hidden_states=prompt[None], return_dict=False
                )[0]  # fmt: skip
            if on_step is not None:
                on_step(step + 1)
        return Video(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), latents.float().cpu())


def network(size: Size, device: torch.device) -> Calls:
    """As diffusers makes it, with random weights."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    heads = max(1, size.dim // 128)
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=heads, attention_head_dim=size.dim // heads, in_channels=16,
        out_channels=16, text_dim=1024, freq_dim=256, ffn_dim=size.ffn, num_layers=size.blocks,
    )  # fmt: skip
    transformer = transformer.to(device, torch.bfloat16).eval()
    rows = 16 if size.tokens % 16 == 0 else 1
    frames = 1
    while size.tokens % (rows * (frames + 1)) == 0 and size.tokens // (rows * (frames + 1)) >= rows:
        frames += 1
    columns = size.tokens // (rows * frames)
    latents = torch.randn(1, 16, frames, 2 * rows, 2 * columns, device=device, dtype=torch.bfloat16)
    prompts = torch.randn(2, TEXT_TOKENS, 1024, device=device, dtype=torch.bfloat16)
    return Calls(transformer, latents, prompts)


def sampling(size: Size) -> Sampling:
    """As many steps as the calls make."""
    return Sampling(height=8, width=8, num_frames=1, steps=size.calls // 2, guidance_scale=5.0, seed=0)
