"""Fréchet video distance (arXiv 1812.01717), on the features of VideoMAE (arXiv 2404.12391)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field

from llmc.errors import AdapterError
from llmc.eval.metrics.base import Pair, Score, SetMetric
from llmc.models.vision import VideoEmbedder, embedder_problem

FETCH = (
    "fvd needs a VideoMAE on the disk: put config.json, model.safetensors and preprocessor_config.json of "
    "MCG-NJU/videomae-base into a folder, and write `{name: fvd, model: FOLDER}`"
)
LEAST_CLIPS = 2  # a distribution has a spread


class FVD(SetMetric):
    """Distance of all videos from all references as two Gaussians of VideoMAE's features; 0 where they are the same.

    I3D's figures are others: compare only within one model. A few videos leave it biased upwards, for all positions
    alike, so that only a difference between positions means something.
    """

    name: Literal["fvd"] = "fvd"
    model: Path | None = Field(None, description="folder of a VideoMAE as transformers saves it")
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    title: ClassVar[str] = "FVD"
    digits: ClassVar[int] = 2
    least_frames: ClassVar[int] = 2

    def compare_all(self, pairs: Sequence[Pair]) -> Score:
        if self.model is None or self.obstacle():
            return Score(None, why=self.obstacle())
        try:
            embedder = VideoEmbedder(self.model)
            wanted = torch.cat([embedder.of_video(pair.reference) for pair in pairs])
            found = torch.cat([embedder.of_video(pair.candidate) for pair in pairs])
        except AdapterError as broken:  # a run of hours must not end here
            return Score(None, why=str(broken))
        if len(wanted) < LEAST_CLIPS:
            return Score(None, why="fvd: one clip has no distribution; judge more or longer videos")
        return Score(frechet(wanted, found))

    def obstacle(self) -> str:
        return FETCH if self.model is None else embedder_problem(self.name, self.model)


def frechet(one: torch.Tensor, other: torch.Tensor) -> float:
    """|μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½) of rows of features.

    The root's trace is the nuclear norm of X₁ X₂ᵀ, the centred rows over √(n - 1): exact, however few rows there are,
    where a root of the singular covariances is not.
    """
    means = one.mean(0), other.mean(0)
    x, y = ((rows - mean) / (len(rows) - 1) ** 0.5 for rows, mean in zip((one, other), means, strict=True))
    common = torch.linalg.svdvals(x @ y.T).sum()
    return max(0.0, float((means[0] - means[1]).square().sum() + x.square().sum() + y.square().sum() - 2 * common))
