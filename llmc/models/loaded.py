"""A float model that can run: its pipeline, and the adapter that knows how."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from llmc.models.base import ModelAdapter
from llmc.models.encoded import Encoded
from llmc.models.parts import Part
from llmc.models.samples import OnStep, Sample, Sampling, Video


@dataclass(frozen=True)
class LoadedModel:
    """An adapter and the pipeline that it loaded, or takes apart all the same."""

    adapter: ModelAdapter
    pipeline: Any = None  # None where weights are all that is looked at
    weights: str = ""  # a digest of them, where they may be others than those in the model's files
    encoded: Encoded | None = None  # what its encoders made, where they stay as they are; None: they are asked anew

    def parts(self) -> list[Part]:
        """The networks that can be quantized."""
        return self.adapter.parts(self.pipeline)

    def call_counts(self, sampling: Sampling) -> dict[str, int]:
        """How many times each part is called for one sample."""
        return self.adapter.call_counts(self.pipeline, sampling)

    def generate(self, sample: Sample, sampling: Sampling, on_step: OnStep | None = None) -> Video:
        """Run the pipeline once."""
        with nullcontext() if self.encoded is None else self.encoded.used_by(self.pipeline):
            return self.adapter.generate(self.pipeline, sample, sampling, on_step)
