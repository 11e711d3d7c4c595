"""Subject consistency: whether what is seen stays what it was, by VBench's formula (arXiv 2311.17982, section 3.1)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field

from llmc.errors import AdapterError
from llmc.eval.metrics.base import InformedMetric, Pair, Score, mean
from llmc.eval.pixels import luma, padded, read_picture
from llmc.models.vision import FrameEmbedder, embedder_problem

CELLS, BINS = 8, 9  # a descriptor has a histogram of 9 directions in each of 8 x 8 areas (Dalal and Triggs 2005)


class SubjectConsistency(InformedMetric):
    """Cosine of what describes each frame with the first one and with the one before, of the candidate alone.

    The first frame is the picture that the sample gives, if it does. A frame is described by where its edges are and
    which way they run; or, with `model`, by the class token of a vision transformer such as DINO's, as VBench does.
    The float model's own figure is the yardstick.
    """

    name: Literal["subject_consistency"] = "subject_consistency"
    model: Path | None = Field(
        None,
        description="folder of a vision transformer (config.json, model.safetensors), such as facebook/dino-vitb16",
    )
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    title: ClassVar[str] = "subject consistency"
    least_frames: ClassVar[int] = 2

    def judge(self, pair: Pair) -> Score:
        """One figure for each frame but the first."""
        frames = pair.candidate
        if len(frames) == 1:
            return Score(None, why="a single frame is always as it was")
        if why := self.obstacle():
            return Score(None, why=why)
        if pair.image is not None:
            first = read_picture(pair.image, frames.shape[1], frames.shape[2])[None]
            frames = torch.cat((first, frames[1:]))
        try:
            seen = edges(frames) if self.model is None else FrameEmbedder(self.model).of_frames(frames)
        except AdapterError as broken:  # a run of hours must not end here
            return Score(None, why=str(broken))
        per_frame = tuple((cosine(seen[t], seen[0]) + cosine(seen[t], seen[t - 1])) / 2 for t in range(1, len(seen)))
        return Score(mean(per_frame), per_frame)

    def obstacle(self) -> str:
        return "" if self.model is None else embedder_problem(self.name, self.model)


def edges(frames: torch.Tensor) -> torch.Tensor:
    """A descriptor of each frame, (frames, areas × directions)."""
    return torch.stack([_directions(padded(luma(frame))) for frame in frames])


def _directions(image: torch.Tensor) -> torch.Tensor:
    """How much stronger edges are in each direction of each area than in the area's mean direction; dark to bright
    counts as bright to dark. Without the mean, noise, which has all directions, would make frames alike."""
    across, down = image[1:-1, 2:] - image[1:-1, :-2], image[2:, 1:-1] - image[:-2, 1:-1]
    angle = torch.atan2(down, across) / math.pi  # in half turns
    bins = (angle * BINS).round().long() % BINS
    rows, columns = (_areas(size) for size in across.shape)
    place = (rows[:, None] * CELLS + columns[None, :]) * BINS + bins
    found = torch.zeros(CELLS * CELLS * BINS, dtype=torch.float64)
    found.index_add_(0, place.flatten(), torch.hypot(across, down).flatten())
    found = found.view(-1, BINS)
    return (found - found.mean(1, keepdim=True)).flatten()


def _areas(size: int) -> torch.Tensor:
    """The area that each row or column lies in."""
    return torch.arange(size) * CELLS // size


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    """From 0 to 1; frames without anything in them are alike."""
    lengths = float(one.norm() * other.norm())
    if lengths == 0:
        return float(not one.any() and not other.any())
    return max(0.0, float(one @ other) / lengths)
