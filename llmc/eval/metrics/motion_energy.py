"""Motion energy ratio: whether the candidate moves as much as the reference, wherever it does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch

from llmc.eval.metrics.base import Metric, Score, likeness, mean
from llmc.eval.pixels import brightness

STILL = 1.0  # squared grey levels; below it a transition counts as still


class MotionEnergy(Metric):
    """Mean squared change of brightness from frame to frame, the smaller of the two videos' over the larger.

    1: the candidate moves as much; 0.5: half as much, or twice as much. A video that froze has nearly 0.
    """

    name: Literal["motion_energy"] = "motion_energy"
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    title: ClassVar[str] = "motion energy ratio"
    least_frames: ClassVar[int] = 2

    def compare(self, reference: torch.Tensor, candidate: torch.Tensor) -> Score:
        if len(reference) == 1:
            return Score(None, why="a single frame has no motion")
        wanted, found = list(_energies(reference)), list(_energies(candidate))
        per_frame = tuple(likeness(r, c, STILL) for r, c in zip(wanted, found, strict=True))
        return Score(likeness(mean(wanted), mean(found), STILL), per_frame)


def _energies(frames: torch.Tensor) -> Iterator[float]:
    """Mean squared change of brightness in each transition."""
    levels = brightness(frames)
    before = next(levels)
    for now in levels:
        yield (now - before).square().mean().item()
        before = now
