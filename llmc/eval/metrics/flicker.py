"""Flicker: brightness that goes up in one frame and down in the next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch

from llmc.eval.metrics.base import Metric, Score
from llmc.eval.pixels import brightness


class Flicker(Metric):
    """Alternation of brightness from frame to frame beyond the reference's, in grey levels; 0 where there is no more.

    A pixel alternates by half of how far it lies from the mean of what it was and what it will be, so that ±a around
    an even grey is a. What goes up or down steadily does not count, nor does a video that differs, but is as calm.
    """

    name: Literal["flicker"] = "flicker"
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    title: ClassVar[str] = "flicker"
    digits: ClassVar[int] = 2
    least_frames: ClassVar[int] = 3

    def compare(self, reference: torch.Tensor, candidate: torch.Tensor) -> Score:
        """One figure for each frame that has one before and one after it, and the root mean squares of all."""
        if len(reference) < self.least_frames:
            return Score(None, why="fewer than three frames cannot flicker")
        calm, found = list(_alternations(reference)), list(_alternations(candidate))
        per_frame = tuple(max(0.0, c**0.5 - r**0.5) for r, c in zip(calm, found, strict=True))
        return Score(max(0.0, _root_mean(found) - _root_mean(calm)), per_frame)


def _alternations(frames: torch.Tensor) -> Iterator[float]:
    """The mean square of |x[t - 1] - 2 x[t] + x[t + 1]| / 4 of each inner frame."""
    levels = brightness(frames)
    before, now = next(levels), next(levels)
    for after in levels:
        yield ((before - 2 * now + after) / 4).square().mean().item()
        before, now = now, after


def _root_mean(squares: list[float]) -> float:
    return float((sum(squares) / len(squares)) ** 0.5)
