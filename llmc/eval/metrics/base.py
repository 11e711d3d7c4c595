"""How far one video is from another, frame by frame; or what else can be told of a video, or of all of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from llmc.errors import LlmcError
from llmc.plugin import Plugin

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Score:
    """The figure of one video and of each of its frames; without a figure, `why` says what was missing."""

    value: float | None
    per_frame: tuple[float, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Pair:
    """Two videos of one sample, and what both were made of."""

    reference: Tensor
    candidate: Tensor
    prompt: str = ""
    image: Path | None = None  # the first frame that was given


class Metric(Plugin):
    """Compares two videos of the same shape, (frames, height, width, 3) in uint8; an image is a video of one frame."""

    better: ClassVar[Literal["higher", "lower"]]
    title: ClassVar[str]
    unit: ClassVar[str] = ""
    digits: ClassVar[int] = 4  # decimals worth printing
    least_frames: ClassVar[int] = 1  # of a video that it can tell something of

    def score(self, reference: Tensor, candidate: Tensor, prompt: str = "", image: Path | None = None) -> Score:
        """How far `candidate` is from `reference`, computed on the CPU so that every machine gives the same figure."""
        return self.judge(checked(self.name, Pair(reference, candidate, prompt, image)))

    def judge(self, pair: Pair) -> Score:
        """What `score` returns, once the shapes are known to agree."""
        return self.compare(pair.reference, pair.candidate)

    @abstractmethod
    def compare(self, reference: Tensor, candidate: Tensor) -> Score:
        """The figure of two videos, for a metric that needs no more."""

    def obstacle(self) -> str:
        """Why it can give no figure here, whatever the videos are, and what to do; nothing if it can."""
        return ""


class InformedMetric(Metric):
    """One that also sees the prompt and the first frame."""

    @abstractmethod
    def judge(self, pair: Pair) -> Score: ...

    def compare(self, reference: Tensor, candidate: Tensor) -> Score:
        return self.judge(Pair(reference, candidate))


class SetMetric(Metric):
    """One that sees the videos of all samples at once, and has one figure for them together."""

    def score_all(self, pairs: Sequence[Pair]) -> Score:
        """How far the candidates are from the references as a whole."""
        return self.compare_all([checked(self.name, pair) for pair in pairs])

    @abstractmethod
    def compare_all(self, pairs: Sequence[Pair]) -> Score:
        """What `score_all` returns, once the shapes are known to agree."""

    def compare(self, reference: Tensor, candidate: Tensor) -> Score:
        return self.compare_all([Pair(reference, candidate)])


def checked(metric: str, pair: Pair) -> Pair:
    """The pair on the CPU, once it is known to be two videos of one shape."""
    reference, candidate = pair.reference, pair.candidate
    check_frames(reference, "reference")
    check_frames(candidate, "candidate")
    if reference.shape != candidate.shape:
        raise LlmcError(
            f"{metric} got a reference of {describe(reference)} and a candidate of {describe(candidate)}; "
            "it compares videos of one shape; generate both with the same height, width and num_frames"
        )
    return Pair(reference.cpu(), candidate.cpu(), pair.prompt, pair.image)


def mean(figures: Sequence[float]) -> float:
    """The figure of a video from those of its frames."""
    return sum(figures) / len(figures)


def likeness(one: float, other: float, least: float) -> float:
    """The smaller of two magnitudes over the larger, 1 where they are equal; both count as `least` below it."""
    small, large = sorted((max(one, least), max(other, least)))
    return small / large


def check_frames(frames: Tensor, role: str) -> None:
    """Refuse anything but (frames, height, width, 3) in uint8."""
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise LlmcError(
            f"the {role} is a {frames.dtype} tensor of shape {tuple(frames.shape)}; "
            "a video is uint8 of shape (frames, height, width, 3); convert it before it is compared or written"
        )


def describe(frames: Tensor) -> str:
    """The size of a video in words."""
    count, height, width = frames.shape[:3]
    return f"{count} frame{'s' if count > 1 else ''} of {height}×{width}"
