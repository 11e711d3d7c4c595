"""Colour shift: how far the colours of a frame have moved as a whole."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch

from llmc.eval.metrics.base import Metric, Score, mean
from llmc.eval.pixels import lab


class ColourShift(Metric):
    """Distance of the mean colours of two frames in CIE L*a*b* (ΔE 1976), mean of the frames; about 2 is just seen."""

    name: Literal["colour_shift"] = "colour_shift"
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    title: ClassVar[str] = "colour shift"
    unit: ClassVar[str] = "ΔE"
    digits: ClassVar[int] = 2

    def compare(self, reference: torch.Tensor, candidate: torch.Tensor) -> Score:
        per_frame = tuple(
            float(torch.dist(lab(r).mean((0, 1)), lab(c).mean((0, 1))))
            for r, c in zip(reference, candidate, strict=True)
        )
        return Score(mean(per_frame), per_frame)
