"""Wan2.1 VACE: a video made after a reference image; a second list of blocks carries the condition."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch

from llmc.models.base import like
from llmc.models.index import PipelineIndex
from llmc.models.samples import OnStep, Sample, Sampling, Video
from llmc.models.wan import Wan, fitted, is_single, run_pipeline


class WanVACE(Wan):
    """Wan2.1 VACE, video after a reference image."""

    name: Literal["WanVACE"] = "WanVACE"
    known_as: ClassVar[tuple[str, ...]] = ("Wan2_1", "Wan2.1-VACE-1.3B", "Wan2.1-VACE-14B")
    pipeline: ClassVar[str] = "WanVACEPipeline"
    network: ClassVar[str] = "WanVACETransformer3DModel"
    needs_image: ClassVar[bool] = True

    @classmethod
    def fits(cls, index: PipelineIndex) -> bool:
        return super().fits(index) and is_single(index)

    def inputs(self, index: PipelineIndex, network: torch.nn.Module, sampling: Sampling) -> dict[str, Any]:
        config: Any = network.config
        frames, height, width = self.latent_sizes(index, sampling)
        frames += 1  # the reference image stands before the video
        found = super().inputs(index, network, sampling)
        return found | {
            "hidden_states": like(1, config.in_channels, frames, height, width),
            "control_hidden_states": like(1, config.vace_in_channels, frames, height, width),
            "control_hidden_states_scale": like(len(config.vace_layers)),
        }

    def generate(self, pipeline: Any, sample: Sample, sampling: Sampling, on_step: OnStep | None = None) -> Video:
        return run_pipeline(pipeline, sample, sampling, on_step, reference_images=[fitted(sample.image, sampling)])
