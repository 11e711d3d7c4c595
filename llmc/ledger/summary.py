"""Turn what a run measured into `results.json`, videos, the layer table and the report."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from llmc import distributed
from llmc.algorithms.base import Algorithm
from llmc.calib.apart import OVERFIT, overfit
from llmc.config.schema import Config
from llmc.engine.network import Network
from llmc.eval.compare import Comparison, compare_sets, compare_videos, mean_of
from llmc.eval.metrics.base import Score
from llmc.eval.report import write_report
from llmc.eval.results import (
    AttentionResult,
    BlockResult,
    LayerResult,
    PhaseResult,
    Results,
    SampleResult,
    ratios,
    write_results,
)
from llmc.eval.video import write_preview, write_video
from llmc.judging.broken import broken
from llmc.judging.judgement import Judgement
from llmc.ledger.coverage import CoverageTable
from llmc.ledger.folder import RunFolder, versions
from llmc.ledger.usage import Usage
from llmc.log import log
from llmc.progress import progress
from llmc.section import Section

LAYER_COLUMNS = ("name", "spec", "transforms", "method", "error", "baseline_error", "weight_error", "overfit")
ATTENTION_COLUMNS = ("name", "spec", "quantized", "error")


def collect(
    config: Config,
    networks: Sequence[Network],
    coverage: CoverageTable,
    judgement: Judgement | None,
    checkpoint: Path | None,
    folder: RunFolder,
) -> Results:
    """Everything that is known of a run; rank 0 also writes it."""
    layers, attentions = layer_table(networks), attention_table(networks)
    judged = {} if judgement is None else judged_fields(config, judgement, folder)
    device = str(next(networks[0].part.module.parameters()).device)
    results = Results(
        run=str(folder.path), name=folder.path.name, created=datetime.now(UTC).isoformat(timespec="seconds"),
        checkpoint=None if checkpoint is None else str(checkpoint), report=str(folder.path / "report.html"),
        device=device, versions=versions(), recipe=describe(config), config=config.model_dump(mode="json"),
        phases=phase_results(folder.phases), layers=layers, attentions=attentions, rejected=rejections(networks),
        coverage=coverage.rows, warnings=[*coverage.warnings, *overfitting(networks), *judged.pop("warnings", [])],
        **judged,
    )  # fmt: skip
    if folder.writes:
        write_results(folder.path / "results.json", results)
        folder.write_table(
            "layers.csv", LAYER_COLUMNS, [[getattr(layer, column) for column in LAYER_COLUMNS] for layer in layers]
        )
        if attentions:
            rows = [[getattr(attention, column) for column in ATTENTION_COLUMNS] for attention in attentions]
            folder.write_table("attentions.csv", ATTENTION_COLUMNS, rows)
        write_report(folder.path / "report.html", results, media=folder.path)
    return results


def phase_results(phases: Mapping[str, Usage]) -> dict[str, PhaseResult]:
    """What the phases took: time on this rank, forwards of all ranks, the most memory of any."""
    ranks = distributed.gather(dict(phases))
    return {
        name: PhaseResult(
            seconds=usage.seconds,
            forwards=round(sum(rank[name].forwards for rank in ranks), 2),
            host_bytes=max(rank[name].host_bytes for rank in ranks),
            device_bytes=max(rank[name].device_bytes for rank in ranks),
        )
        for name, usage in phases.items()
    }


def describe(config: Config) -> str:
    """The recipe in one line."""
    said = {section: f"{methods(quant.method)}: {quant.default_spec()}"
            for section, quant in config.quant.sections().items()}  # fmt: skip
    if (attention := config.attention_policy()) is not None:
        said[Section.VIDEO_GEN] += f", attention {' and '.join(map(str, attention.specs))}"
    return "; ".join(text if section == Section.VIDEO_GEN else f"{section} {text}" for section, text in said.items())


def methods(recipe: Sequence[Algorithm]) -> str:
    """The methods in a few words."""
    return " + ".join(method.label() for method in recipe)


def layer_table(networks: Sequence[Network]) -> list[LayerResult]:
    """What became of every linear."""
    table = []
    for network in networks:
        for name, layer in network.layers.items():
            error = network.errors.get(name)
            table.append(
                LayerResult(
                    name=network.prefix + name,
                    spec=str(layer.spec),
                    transforms="; ".join(str(transform) for transform in layer.state.transforms),
                    method=methods(network.recipe) if layer.state.rounded is not None else "float weight",
                    **(error.figures() if error else {}),
                )
            )
    return table


def attention_table(networks: Sequence[Network]) -> list[AttentionResult]:
    """What became of every attention that was to be quantized, worst first."""
    table = [
        AttentionResult(
            name=network.prefix + name,
            spec=str(attention.spec),
            quantized=not attention.state.stays_float,
            error=network.attention_errors.get(name),
        )
        for network in networks for name, attention in network.attentions.items()
    ]  # fmt: skip
    return sorted(table, key=lambda attention: attention.error or 0.0, reverse=True)


def rejections(networks: Sequence[Network]) -> dict[str, int]:
    """How many groups each method left alone because its transform did not pay, or did not treat as it was asked to."""
    return dict(sum((block.rejected for network in networks for block in network.blocks), Counter()))


def overfitting(networks: Sequence[Network]) -> list[str]:
    """One sentence for each part whose layers all together are solved for the calls that were seen, and no others."""
    found = []
    for network in networks:
        times = overfit([error.fit for error in network.errors.values() if error.fit is not None]) or 0.0
        if times > OVERFIT:
            found.append(
                f"{network.part.name}: solutions leave {times:.1f} times the error on calls kept apart that they leave "
                f"on those used, where up to {OVERFIT} is well; calibrate on more samples, each can have few steps"
            )
            log.warning("%s", found[-1])
    return found


def judged_fields(config: Config, judgement: Judgement, folder: RunFolder) -> dict[str, Any]:
    """The parts of Results that videos decide; rank 0 writes those videos."""
    assert config.eval is not None
    if not folder.writes:
        return {}
    reference = judgement.positions["float"].videos
    compared: dict[str, list[Comparison]] = {}
    of_all: dict[str, dict[str, Score]] = {}
    made_of = [sample for sample, _ in judgement.samples]
    filmed = judgement.filmed()
    with progress("comparing videos", len(filmed)) as advance:
        for position, judged in filmed.items():
            compared[position] = compare_videos(reference, judged.videos, config.metrics(), made_of)
            of_all[position] = compare_sets(reference, judged.videos, config.metrics())
            advance()
    everyone = range(len(judgement.samples))
    metrics = {
        position: mean_of(compared.get(position, ()))
        | {name: score.value for name, score in of_all.get(position, {}).items()}
        | {"teacher_forced_error": _teacher_forced(judgement, position, everyone)}
        for position in judgement.positions
    }
    videos = write_videos(config, judgement, folder)
    replayed = {position: judged for position, judged in judgement.positions.items() if judged.steps}
    samples = [
        SampleResult(
            name=str(index),
            prompt=sample.prompt,
            image=sample.image and str(sample.image),
            seed=how.seed,
            steps={position: judged.steps[index] for position, judged in replayed.items()},
            metrics={
                position: (compared[position][index].metrics if position in compared else {})
                | {"teacher_forced_error": _teacher_forced(judgement, position, [index])}
                for position in judgement.positions
            },
            per_frame={position: found[index].per_frame for position, found in compared.items()},
            videos={position: paths[index] for position, paths in videos.items()},
        )
        for index, (sample, how) in enumerate(judgement.samples)
    ]
    blocks = {
        position: [BlockResult(name=name, error=error) for name, error in judged.blocks]
        for position, judged in replayed.items()
    }
    encoders = {position: dict(judged.encoders) for position, judged in replayed.items() if judged.encoders}
    missing = sorted(_reasons(compared, of_all))
    no_numbers = list(broken(judgement))
    for warning in no_numbers:
        log.warning("%s", warning)
    return {"metrics": metrics, "ratio": ratios(metrics), "samples": samples, "blocks": blocks,
            "encoders": encoders, "warnings": [*no_numbers, *missing]}  # fmt: skip


def _reasons(compared: Mapping[str, list[Comparison]], of_all: Mapping[str, Mapping[str, Score]]) -> set[str]:
    """Why figures are missing, each reason once."""
    found = {score.why for scores in of_all.values() for score in scores.values() if score.why}
    for comparisons in compared.values():
        for one in comparisons:
            found |= set(one.missing.values())
    return found


def write_videos(config: Config, judgement: Judgement, folder: RunFolder) -> dict[str, list[str]]:
    """Every video of every position, and one picture of each sample: float | quantized | difference."""
    assert config.eval is not None
    filmed = judgement.filmed()
    if not all(video.is_decoded for judged in filmed.values() for video in judged.videos):
        return {}
    root = config.eval.output_video_path or folder.path / "videos"
    written: dict[str, list[str]] = {}
    for position, judged in filmed.items():
        names = [f"{index}_seed{how.seed}" for index, (_, how) in enumerate(judgement.samples)]
        paths = [write_video(root / position / f"{name}.mp4", video.frames, config.eval.fps)
                 for name, video in zip(names, judged.videos, strict=True)]  # fmt: skip
        written[position] = [os.path.relpath(path, folder.path) for path in paths]
    if "fake_quant" in judgement.positions:
        pairs = zip(judgement.positions["float"].videos, judgement.positions["fake_quant"].videos, strict=True)
        for index, (ours, theirs) in enumerate(pairs):
            write_preview(folder.path / "previews" / f"{index}.png", ours.frames, theirs.frames)
    return written


def _teacher_forced(judgement: Judgement, position: str, samples: Iterable[int]) -> float | None:
    """The mean over samples and steps; float is its own reference."""
    if position == "float":
        return 0.0
    steps = judgement.positions[position].steps
    found = [error for sample in samples if steps for error in steps[sample] if error is not None]
    return fmean(found) if found else None
