"""CLIP score (Hessel et al. 2021): whether frames show what the prompt says."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field

from llmc.errors import AdapterError
from llmc.eval.metrics.base import InformedMetric, Pair, Score, mean
from llmc.models.vision import FrameEmbedder, embedder_problem

FETCH = (
    "clip_score needs a CLIP on the disk: put config.json, model.safetensors, preprocessor_config.json, vocab.json, "
    "merges.txt and tokenizer_config.json of openai/clip-vit-base-patch32 into a folder, and write "
    "`{name: clip_score, model: FOLDER}`"
)


class ClipScore(InformedMetric):
    """Cosine of a frame and the prompt in CLIP's space, times 100, mean of the frames, of the candidate alone.

    CLIP reads 77 tokens of English; the float model's own figure is the yardstick.
    """

    name: Literal["clip_score"] = "clip_score"
    model: Path | None = Field(None, description="folder of a CLIP as transformers saves it")
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    title: ClassVar[str] = "CLIP score"
    digits: ClassVar[int] = 2

    def judge(self, pair: Pair) -> Score:
        if self.model is None or self.obstacle():
            return Score(None, why=self.obstacle())
        if not pair.prompt:
            return Score(None, why="clip_score: there is no prompt to hold the frames to")
        try:
            embedder = FrameEmbedder(self.model)
            cosines = torch.cosine_similarity(embedder.of_frames(pair.candidate), embedder.of_text(pair.prompt), dim=1)
        except AdapterError as broken:  # a run of hours must not end here
            return Score(None, why=str(broken))
        per_frame = tuple((100 * cosines.clamp(min=0)).tolist())
        return Score(mean(per_frame), per_frame)

    def obstacle(self) -> str:
        return FETCH if self.model is None else embedder_problem(self.name, self.model)
