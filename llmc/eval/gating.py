"""Whether a run passes its gate, from the figures of its samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from llmc.errors import LlmcError
from llmc.eval.gate import decide
from llmc.eval.gate_settings import Gate, GateResult
from llmc.eval.results import Results, SampleResult, columns, read_results

Figures = dict[tuple[str, str], dict[int, float | None]]  # (prompt, picture) -> seed -> figure


def hold(gate: Gate, results: Results, position: str = "fake_quant") -> GateResult:
    """Decide a gate by what a run measured; where figures are missing it is not passed, and says why."""
    column = columns().get(gate.metric)
    if column is None:
        raise LlmcError(f"eval.gate.metric is {gate.metric}; there are {', '.join(columns())}: name one of them")
    ours, yardstick = figures_of(results.samples, position, gate.metric), str(gate.no_worse_than)
    if missing := _missing(ours):
        return _refused("failed", f"{position} has no {column.title} of {missing}: it is no figure that can be held to")
    theirs = _yardstick(gate, results, ours)
    if missing := _missing(theirs):
        return _refused("undecided", f"{yardstick} has no {column.title} of {missing}; judge it there too")
    better: Literal["higher", "lower"] = "higher" if column.higher else "lower"
    try:
        decision = decide(_rows(ours), _rows(theirs), better, gate.confidence)
    except LlmcError as impossible:  # too few samples: a run of hours must not end here
        return _refused("undecided", str(impossible))
    gain = decision.gain
    sentence = decision.sentence(column.title, yardstick, column.unit, column.digits)
    return GateResult(verdict=decision.verdict, sentence=sentence, gain=gain.mean, low=gain.low, high=gain.high)


def figures_of(samples: Sequence[SampleResult], position: str, metric: str) -> Figures:
    """The figures of one metric by what they were made of, whatever order and names the samples have."""
    found: Figures = {}
    for sample in samples:
        key = sample.prompt, Path(sample.image).name if sample.image else ""
        found.setdefault(key, {})[sample.seed] = sample.metrics.get(position, {}).get(metric)
    return found


def _yardstick(gate: Gate, results: Results, ours: Figures) -> Figures:
    """What ours is held to, for each of its samples and seeds; None where the yardstick has no figure."""
    bound = gate.no_worse_than
    if isinstance(bound, float):
        return {key: dict.fromkeys(seeds, bound) for key, seeds in ours.items()}
    if bound in results.metrics:
        return figures_of(results.samples, bound, gate.metric)
    path = Path(bound)
    if not (path / "results.json").is_file():
        raise LlmcError(
            f"eval.gate.no_worse_than is {bound}; positions that were judged are {', '.join(results.metrics)}: name "
            "one of them, the folder of another run, or a figure"
        )
    theirs = figures_of(read_results(path / "results.json").samples, "fake_quant", gate.metric)
    return {key: {seed: theirs.get(key, {}).get(seed) for seed in seeds} for key, seeds in ours.items()}


def _rows(figures: Figures) -> list[list[float]]:
    """A row for each sample, of those in which no figure is missing; the seeds in order."""
    return [[figure for _, figure in sorted(seeds.items()) if figure is not None] for seeds in figures.values()]


def _missing(figures: Figures) -> str:
    """Which sample has no figure, in words; nothing if all have one."""
    for (prompt, _), seeds in figures.items():
        for seed, figure in seeds.items():
            if figure is None:
                return f"the sample {prompt[:60]!r} with seed {seed}"
    return "" if figures else "any sample"


def _refused(verdict: Literal["failed", "undecided"], why: str) -> GateResult:
    return GateResult(verdict=verdict, sentence=f"gate {verdict}: {why}")
