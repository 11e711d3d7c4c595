"""How far one video is from another, frame by frame."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from llmc.errors import LlmcError
from llmc.plugin import Plugin


@dataclass(frozen=True)
class Score:
    """The figure of one video and of each of its frames; without a figure, `why` says what was missing."""

    value: float | None
    per_frame: tuple[float, ...] = ()
    why: str = ""


class Metric(Plugin):
    """Compares two videos of the same shape, (frames, height, width, 3) in uint8; an image is a video of one frame."""

    better: ClassVar[Literal["higher", "lower"]]
    title: ClassVar[str]
    unit: ClassVar[str] = ""
    digits: ClassVar[int] = 4  # decimals worth printing
    least_frames: ClassVar[int] = 1  # of a video that it can tell something of

    def score(self, reference: torch.Tensor, candidate: torch.Tensor) -> Score:
        """How far `candidate` is from `reference`, computed on the CPU so that every machine gives the same figure."""
        check_frames(reference, "reference")
        check_frames(candidate, "candidate")
        if reference.shape != candidate.shape:
            raise LlmcError(
                f"{self.name} got a reference of {describe(reference)} and a candidate of {describe(candidate)}; "
                "it compares videos of one shape; generate both with the same height, width and num_frames"
            )
        return self.compare(reference.cpu(), candidate.cpu())

    @abstractmethod
    def compare(self, reference: torch.Tensor, candidate: torch.Tensor) -> Score:
        """What `score` returns, once the shapes are known to agree."""


def check_frames(frames: torch.Tensor, role: str) -> None:
    """Refuse anything but (frames, height, width, 3) in uint8."""
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise LlmcError(
            f"the {role} is a {frames.dtype} tensor of shape {tuple(frames.shape)}; "
            "a video is uint8 of shape (frames, height, width, 3); convert it before it is compared or written"
        )


def describe(frames: torch.Tensor) -> str:
    """The size of a video in words."""
    count, height, width = frames.shape[:3]
    return f"{count} frame{'s' if count > 1 else ''} of {height}×{width}"
