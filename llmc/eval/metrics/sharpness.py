"""Sharpness: whether the candidate has as much fine detail as the reference."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch

from llmc.eval.metrics.base import Metric, Score, likeness, mean
from llmc.eval.pixels import luma, padded

FLAT = 1.0  # grey levels; below it a frame counts as without detail


class Sharpness(Metric):
    """Root mean square of the Laplacian of brightness, the smaller of the two frames' over the larger, mean of frames.

    1: as sharp; 0.5: half as sharp, or twice as sharp, which is noise. The Laplacian is that of the four neighbours.
    """

    name: Literal["sharpness"] = "sharpness"
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    title: ClassVar[str] = "sharpness ratio"

    def compare(self, reference: torch.Tensor, candidate: torch.Tensor) -> Score:
        per_frame = tuple(likeness(_detail(r), _detail(c), FLAT) for r, c in zip(reference, candidate, strict=True))
        return Score(mean(per_frame), per_frame)


def _detail(frame: torch.Tensor) -> float:
    image = padded(luma(frame))
    around = image[:-2, 1:-1] + image[2:, 1:-1] + image[1:-1, :-2] + image[1:-1, 2:]
    return float((around - 4 * image[1:-1, 1:-1]).square().mean() ** 0.5)
