"""What a pipeline is asked to make, and what it makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from llmc.finite import is_finite
from llmc.plugin import Strict

Task = Literal["i2v", "t2v", "t2i", "i2i"]  # what a sample is, and what is made of it


class Sample(Strict):
    """One line of samples.json."""

    prompt: str
    negative_prompt: str = ""
    image: Path | None = None
    last_image: Path | None = None


class Sampling(Strict):
    """How the pipeline is run; None leaves what the model's folder says."""

    height: int
    width: int
    num_frames: int
    steps: int
    guidance_scale: float
    seed: int
    guidance_scale_2: float | None = None  # of the low-noise expert; None: the same
    shift: float | None = None  # of the schedule towards noise
    denoising_step_list: tuple[int, ...] | None = None  # of a distilled model: its steps of 1000, before the shift


PlannedSamples = Sequence[tuple[int, Sample, Sampling]]  # each with its place among those of all ranks


@dataclass(frozen=True)
class Video:
    """What a pipeline made: frames (frames, height, width, 3) as uint8 (none if it cannot decode), the final latent."""

    frames: torch.Tensor
    latents: torch.Tensor
    decoded_numbers: bool = True  # whether the decoder gave neither NaN nor infinity: in bytes both look like a colour

    @classmethod
    def of(cls, pixels: torch.Tensor, latents: torch.Tensor) -> Video:
        """From what a decoder gives, from 0 to 1; what is no number becomes black."""
        frames = (pixels.nan_to_num(0, 0, 0) * 255).round().to(torch.uint8)
        return cls(frames.cpu(), latents.float().cpu(), is_finite(pixels))

    @property
    def is_decoded(self) -> bool:
        return len(self.frames) > 0

    @property
    def is_finite(self) -> bool:
        """Whether neither NaN nor infinity came out of the network or the decoder."""
        return self.decoded_numbers and is_finite(self.latents)


OnStep = Callable[[int], None]  # called after each denoising step with the index of the next one
