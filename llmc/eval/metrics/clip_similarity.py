"""CLIP similarity: whether frames mean what the reference's frames mean, even where no pixel agrees."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field

from llmc.errors import AdapterError
from llmc.eval.metrics.base import Metric, Score, mean
from llmc.models.vision import FrameEmbedder, embedder_problem

FETCH = (
    "clip_similarity needs a CLIP on the disk: put config.json, model.safetensors and preprocessor_config.json of "
    "openai/clip-vit-base-patch32 into a folder, and write `{name: clip_similarity, model: FOLDER}`"
)


class ClipSimilarity(Metric):
    """Cosine of the two videos' frames in CLIP's space, times 100, mean of the frames; 100 where they are the same."""

    name: Literal["clip_similarity"] = "clip_similarity"
    model: Path | None = Field(None, description="folder of a CLIP as transformers saves it")
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    title: ClassVar[str] = "CLIP similarity"
    digits: ClassVar[int] = 2

    def compare(self, reference: torch.Tensor, candidate: torch.Tensor) -> Score:
        if self.model is None or self.obstacle():
            return Score(None, why=self.obstacle())
        try:
            embedder = FrameEmbedder(self.model)
            seen = embedder.of_frames(reference), embedder.of_frames(candidate)
        except AdapterError as broken:  # a run of hours must not end here
            return Score(None, why=str(broken))
        per_frame = tuple((100 * torch.cosine_similarity(*seen, dim=1)).tolist())
        return Score(mean(per_frame), per_frame)

    def obstacle(self) -> str:
        return FETCH if self.model is None else embedder_problem(self.name, self.model)
