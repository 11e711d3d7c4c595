"""PSNR: the mean squared error of the pixels, on a logarithmic scale."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch

from llmc.eval.metrics.base import Metric, Score

CAP = 100.0  # dB; identical frames would be infinite, which JSON cannot hold


class PSNR(Metric):
    """Peak signal-to-noise ratio over all pixels of all frames, in dB; identical videos are given 100."""

    name: Literal["psnr"] = "psnr"
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    title: ClassVar[str] = "PSNR"
    unit: ClassVar[str] = "dB"
    digits: ClassVar[int] = 2

    def compare(self, reference: torch.Tensor, candidate: torch.Tensor) -> Score:
        errors = [_squared_error(r, c) for r, c in zip(reference, candidate, strict=True)]
        # the error is averaged before the logarithm: a mean of dB would let one perfect frame hide the bad ones
        return Score(_decibel(sum(errors) / len(errors)), tuple(_decibel(error) for error in errors))


def _squared_error(reference: torch.Tensor, candidate: torch.Tensor) -> float:
    return (reference.double() - candidate.double()).square().mean().item()


def _decibel(squared_error: float) -> float:
    return CAP if squared_error == 0 else min(CAP, 10 * math.log10(255**2 / squared_error))
