"""Wan2.1 VACE: a video made after a reference image; a second list of blocks carries the condition."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from llmc.models.base import OnStep, PipelineIndex, Sample, Sampling, Video
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

    def generate(self, pipeline: Any, sample: Sample, sampling: Sampling, on_step: OnStep | None = None) -> Video:
        return run_pipeline(pipeline, sample, sampling, on_step, reference_images=[fitted(sample.image, sampling)])
