"""Temporal error: whether the candidate moves as the reference moves."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch

from llmc.eval.metrics.base import Metric, Score

STILL = 1.0  # grey levels; below it a reference counts as standing still


class TemporalError(Metric):
    """Relative L2 error of the frame-to-frame differences: flicker and wrong motion, whatever the still error is."""

    name: Literal["temporal_error"] = "temporal_error"
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    title: ClassVar[str] = "temporal error"
    least_frames: ClassVar[int] = 2

    def compare(self, reference: torch.Tensor, candidate: torch.Tensor) -> Score:
        """One figure per transition, each against the motion of the whole reference; their root mean square in all."""
        if len(reference) == 1:
            return Score(None, why="a single frame has no motion")
        motion, error = [], []
        for t in range(1, len(reference)):
            wanted = reference[t].double() - reference[t - 1].double()
            found = candidate[t].double() - candidate[t - 1].double()
            motion.append(wanted.square().mean().item())
            error.append((found - wanted).square().mean().item())
        # one denominator for all: a moment's stillness must not blow a figure up, nor a still video divide by zero
        scale = max(_root_mean(motion), STILL)
        return Score(_root_mean(error) / scale, tuple(math.sqrt(e) / scale for e in error))


def _root_mean(squares: list[float]) -> float:
    return math.sqrt(sum(squares) / len(squares))
