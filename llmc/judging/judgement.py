"""What judging gives: of every position its videos and its errors on the float trajectory."""

from __future__ import annotations

from dataclasses import dataclass

from llmc.models.samples import Sample, Sampling, Video


@dataclass(frozen=True)
class Judged:
    """What one position gave: a video of each sample, its teacher-forced error step by step, each block's error, and
    that of what the pipeline reads of each quantized encoder."""

    videos: list[Video]  # none of a position that only replays the float trajectory
    steps: list[list[float | None]]  # None where no call of a step was chosen
    blocks: list[tuple[str, float]]  # of each call that was looked at, until all ranks are gathered
    encoders: list[tuple[str, float]]  # of each call


@dataclass(frozen=True)
class Judgement:
    """Every position that was judged, `float` first, over all samples of all ranks in order."""

    samples: list[tuple[Sample, Sampling]]
    positions: dict[str, Judged]

    def filmed(self) -> dict[str, Judged]:
        """Those that made videos."""
        return {position: judged for position, judged in self.positions.items() if judged.videos}
