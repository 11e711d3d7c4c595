"""Wan2.2: two experts that share the noise schedule, or one transformer with a time of its own for each token."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch

from llmc.models.base import like
from llmc.models.index import PipelineIndex
from llmc.models.samples import OnStep, Sample, Sampling, Video
from llmc.models.wan import Wan, fitted, run_pipeline, scheduler_for


class TwoExperts(Wan):
    """What both A14B models share: one transformer down to the boundary of the schedule, another one below."""

    optional: ClassVar[frozenset[str]] = Wan.optional | {"guidance_scale_2"}

    @classmethod
    def fits(cls, index: PipelineIndex) -> bool:
        return super().fits(index) and "transformer_2" in index.components

    def call_counts(self, pipeline: Any, sampling: Sampling) -> dict[str, int]:
        scheduler = scheduler_for(pipeline, sampling)
        scheduler.set_timesteps(sampling.steps)
        boundary = pipeline.config.boundary_ratio * scheduler.config.num_train_timesteps
        high = sum(float(timestep) >= boundary for timestep in scheduler.timesteps)
        branches = len(self.branches_of(sampling))
        return {"transformer": high * branches, "transformer_2": (len(scheduler.timesteps) - high) * branches}


class Wan2T2V(TwoExperts):
    """Wan2.2 text-to-video with two experts."""

    name: Literal["Wan2T2V"] = "Wan2T2V"
    known_as: ClassVar[tuple[str, ...]] = ("Wan2_2", "Wan2.2-T2V-A14B")
    pipeline: ClassVar[str] = "WanPipeline"

    def generate(self, pipeline: Any, sample: Sample, sampling: Sampling, on_step: OnStep | None = None) -> Video:
        return run_pipeline(pipeline, sample, sampling, on_step, guidance_scale_2=sampling.guidance_scale_2)


class Wan2I2V(TwoExperts):
    """Wan2.2 image-to-video with two experts."""

    name: Literal["Wan2I2V"] = "Wan2I2V"
    known_as: ClassVar[tuple[str, ...]] = ("Wan2_2", "Wan2.2-I2V-A14B")
    pipeline: ClassVar[str] = "WanImageToVideoPipeline"
    needs_image: ClassVar[bool] = True

    def generate(self, pipeline: Any, sample: Sample, sampling: Sampling, on_step: OnStep | None = None) -> Video:
        image = fitted(sample.image, sampling)
        return run_pipeline(
            pipeline, sample, sampling, on_step, guidance_scale_2=sampling.guidance_scale_2, image=image
        )


class Wan2TI2V(Wan):
    """Wan2.2 video from text, or from text and a first frame, with one transformer of 48 channels."""

    name: Literal["Wan2TI2V"] = "Wan2TI2V"
    known_as: ClassVar[tuple[str, ...]] = ("Wan2_2", "Wan2.2-TI2V-5B")
    pipeline: ClassVar[str] = "WanPipeline"
    takes_image: ClassVar[bool] = True
    multiple: ClassVar[int] = 32

    def inputs(self, index: PipelineIndex, network: torch.nn.Module, sampling: Sampling) -> dict[str, Any]:
        frames, height, width = self.latent_sizes(index, sampling)
        tokens = frames * (height // 2) * (width // 2)
        return super().inputs(index, network, sampling) | {"timestep": like(1, tokens)}

    @classmethod
    def fits(cls, index: PipelineIndex) -> bool:
        both = (cls.pipeline, "WanImageToVideoPipeline")
        return index.class_name in both and bool(index.settings.get("expand_timesteps"))

    def generate(self, pipeline: Any, sample: Sample, sampling: Sampling, on_step: OnStep | None = None) -> Video:
        if sample.image is None:
            return run_pipeline(pipeline, sample, sampling, on_step)
        from diffusers import WanImageToVideoPipeline

        with_image = WanImageToVideoPipeline(**pipeline.components, expand_timesteps=True)
        with_image.encode_prompt = pipeline.encode_prompt  # which may know the text already
        with_image.set_progress_bar_config(disable=True)
        return run_pipeline(with_image, sample, sampling, on_step, image=fitted(sample.image, sampling))
