"""The figures that videos decide, for `results.json`: of every position, of every sample, of every block."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from llmc.config.schema import Config
from llmc.eval.compare import Comparison, compare_sets, compare_videos, mean_of
from llmc.eval.metrics.base import Score
from llmc.eval.results import BlockResult, Figures, SampleResult, ratios
from llmc.eval.video import write_preview, write_video
from llmc.judging.broken import broken
from llmc.judging.judgement import Judgement
from llmc.ledger.folder import RunFolder
from llmc.log import log
from llmc.progress import progress


def judged_fields(config: Config, judgement: Judgement, folder: RunFolder) -> dict[str, Any]:
    """The parts of Results that videos decide; rank 0 writes those videos."""
    if not folder.writes:
        return {}
    compared = Compared.of(config, judgement)
    metrics = {position: compared.means(position) for position in judgement.positions}
    videos = write_videos(config, judgement, folder)
    replayed = {position: judged for position, judged in judgement.positions.items() if judged.steps}
    no_numbers = list(broken(judgement))
    for warning in no_numbers:
        log.warning("%s", warning)
    return {
        "metrics": metrics,
        "ratio": ratios(metrics),
        "samples": [compared.sample(index, videos) for index in range(len(judgement.samples))],
        "blocks": {
            position: [BlockResult(name=name, error=error) for name, error in judged.blocks]
            for position, judged in replayed.items()
        },
        "encoders": {position: dict(judged.encoders) for position, judged in replayed.items() if judged.encoders},
        "warnings": [*no_numbers, *sorted(compared.reasons())],
    }


@dataclass(frozen=True)
class Compared:
    """A judgement, and how its videos compare with those of the float model."""

    judgement: Judgement
    videos: dict[str, list[Comparison]]  # position -> each of its videos
    sets: dict[str, dict[str, Score]]  # position -> metrics of all its videos together

    @classmethod
    def of(cls, config: Config, judgement: Judgement) -> Compared:
        """Compare the videos of every position that made some."""
        reference, filmed = judgement.positions["float"].videos, judgement.filmed()
        made_of, found = [sample for sample, _ in judgement.samples], cls(judgement, {}, {})
        with progress("comparing videos", len(filmed)) as advance:
            for position, judged in filmed.items():
                found.videos[position] = compare_videos(reference, judged.videos, config.metrics(), made_of)
                found.sets[position] = compare_sets(reference, judged.videos, config.metrics())
                advance()
        return found

    def means(self, position: str) -> Figures:
        """The figures of a position, each the mean over its videos."""
        of_all = {name: score.value for name, score in self.sets.get(position, {}).items()}
        everyone = range(len(self.judgement.samples))
        forced = {"teacher_forced_error": self.teacher_forced_error(position, everyone)}
        return mean_of(self.videos.get(position, ())) | of_all | forced

    def sample(self, index: int, videos: dict[str, list[str]]) -> SampleResult:
        """What is known of one sample; `videos` are where those of each position lie."""
        sample, how = self.judgement.samples[index]
        positions = self.judgement.positions
        return SampleResult(
            name=str(index),
            prompt=sample.prompt,
            image=sample.image and str(sample.image),
            seed=how.seed,
            steps={position: judged.steps[index] for position, judged in positions.items() if judged.steps},
            metrics={position: self.figures(position, index) for position in positions},
            per_frame={position: found[index].per_frame for position, found in self.videos.items()},
            videos={position: paths[index] for position, paths in videos.items()},
        )

    def figures(self, position: str, index: int) -> Figures:
        """The figures of one sample in a position."""
        compared = self.videos[position][index].metrics if position in self.videos else {}
        return compared | {"teacher_forced_error": self.teacher_forced_error(position, [index])}

    def teacher_forced_error(self, position: str, samples: Iterable[int]) -> float | None:
        """The mean over samples and steps; float is its own reference."""
        if position == "float":
            return 0.0
        steps = self.judgement.positions[position].steps
        found: list[float] = []
        for sample in samples if steps else ():
            found += [error for error in steps[sample] if error is not None]
        return fmean(found) if found else None

    def reasons(self) -> set[str]:
        """Why figures are missing, each reason once."""
        found: set[str] = set()
        for scores in self.sets.values():
            found |= {score.why for score in scores.values() if score.why}
        for comparisons in self.videos.values():
            for one in comparisons:
                found |= set(one.missing.values())
        return found


def write_videos(config: Config, judgement: Judgement, folder: RunFolder) -> dict[str, list[str]]:
    """Every video of every position, and one picture of each sample: float | quantized | difference."""
    assert config.eval is not None
    filmed = judgement.filmed()
    if not all(all(video.is_decoded for video in judged.videos) for judged in filmed.values()):
        return {}
    root = config.eval.output_video_path or folder.path / "videos"
    names = [f"{index}_seed{how.seed}" for index, (_, how) in enumerate(judgement.samples)]
    written: dict[str, list[str]] = {}
    for position, judged in filmed.items():
        written[position] = []
        for name, video in zip(names, judged.videos, strict=True):
            path = write_video(root / position / f"{name}.mp4", video.frames, config.eval.fps)
            written[position].append(os.path.relpath(path, folder.path))
    if "fake_quant" in judgement.positions:
        pairs = zip(judgement.positions["float"].videos, judgement.positions["fake_quant"].videos, strict=True)
        for index, (ours, theirs) in enumerate(pairs):
            write_preview(folder.path / "previews" / f"{index}.png", ours.frames, theirs.frames)
    return written
