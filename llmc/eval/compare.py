"""Float videos against quantized ones: every metric, and the error of the final latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from llmc.errors import LlmcError
from llmc.eval.metrics.base import Metric, Pair, Score, SetMetric
from llmc.models.samples import Sample, Video

UNDECODED = "the videos were not decoded: only latents are compared (the page of the model says what decodes them)"


@dataclass(frozen=True)
class Comparison:
    """One sample: a figure per metric (None where there is none), its frames, and why figures are missing."""

    metrics: dict[str, float | None]
    per_frame: dict[str, list[float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def compare_videos(
    reference: Sequence[Video], candidate: Sequence[Video], metrics: Sequence[Metric], samples: Sequence[Sample] = ()
) -> list[Comparison]:
    """Compare two runs over the same samples, in the same order; without `samples` no metric sees their prompts."""
    _check_counts(reference, candidate)
    made_of = samples or [Sample(prompt="")] * len(reference)
    each = [metric for metric in metrics if not isinstance(metric, SetMetric)]
    return [compare_pair(r, c, each, sample) for r, c, sample in zip(reference, candidate, made_of, strict=True)]


def compare_pair(
    reference: Video, candidate: Video, metrics: Sequence[Metric], sample: Sample | None = None
) -> Comparison:
    """Compare one video with its reference."""
    prompt, image = (sample.prompt, sample.image) if sample is not None else ("", None)
    if reference.is_decoded and candidate.is_decoded:
        scores = {metric.name: metric.score(reference.frames, candidate.frames, prompt, image) for metric in metrics}
    else:
        scores = {metric.name: Score(None, why=UNDECODED) for metric in metrics}
    scores["latent_error"] = latent_error(reference.latents, candidate.latents)
    return Comparison(
        metrics={name: score.value for name, score in scores.items()},
        per_frame={name: list(score.per_frame) for name, score in scores.items() if score.per_frame},
        missing={name: score.why for name, score in scores.items() if score.why},
    )


def compare_sets(reference: Sequence[Video], candidate: Sequence[Video], metrics: Sequence[Metric]) -> dict[str, Score]:
    """The figures that all videos have together, of those metrics that have such a figure."""
    _check_counts(reference, candidate)
    of_sets = [metric for metric in metrics if isinstance(metric, SetMetric)]
    if not all(video.is_decoded for video in (*reference, *candidate)):
        return {metric.name: Score(None, why=UNDECODED) for metric in of_sets}
    pairs = [Pair(r.frames, c.frames) for r, c in zip(reference, candidate, strict=True)]
    return {metric.name: metric.score_all(pairs) for metric in of_sets}


def _check_counts(reference: Sequence[Video], candidate: Sequence[Video]) -> None:
    if len(reference) != len(candidate):
        raise LlmcError(
            f"there are {len(reference)} reference videos and {len(candidate)} candidates; "
            "each sample needs one of both; generate both from the same samples"
        )


def latent_error(reference: torch.Tensor, candidate: torch.Tensor) -> Score:
    """The power of the error of the final latents as a share of theirs; a video that went NaN has no figure."""
    if reference.shape != candidate.shape:
        raise LlmcError(
            f"the latents have shape {tuple(reference.shape)} and {tuple(candidate.shape)}; "
            "they are compared at one shape; generate both with the same height, width and num_frames"
        )
    r, c = reference.double().cpu(), candidate.double().cpu()
    if not (r.isfinite().all() and c.isfinite().all()):
        return Score(None, why="the latents hold NaN or infinity")
    if not r.any():
        return Score(None, why="the reference latents are all zero")
    return Score(((c - r).square().sum() / r.square().sum()).item())


def mean_of(comparisons: Sequence[Comparison]) -> dict[str, float | None]:
    """The mean of each figure over the samples that have it; None where no sample does."""
    names = dict.fromkeys(name for comparison in comparisons for name in comparison.metrics)
    values = {name: [c.metrics[name] for c in comparisons if name in c.metrics] for name in names}
    return {name: _mean([v for v in found if v is not None]) for name, found in values.items()}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
