"""The table of what was observed: each part, each calibration sample, the steps that it ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmc.calib.coverage import Coverage
from llmc.checks.explain import ranges
from llmc.engine.network import Network
from llmc.eval.results import CoverageResult
from llmc.log import log
from llmc.models.base import Sample


@dataclass(frozen=True)
class CoverageTable:
    """One row for each part and sample, and what is missing."""

    rows: list[CoverageResult]
    warnings: list[str]


def coverage_table(
    coverage: Coverage, networks: Sequence[Network], samples: Sequence[Sample], made: Mapping[str, int]
) -> CoverageTable:
    """The rows, also written to the log of the run; a sample has so many calls of each denoising network."""
    rows = [
        CoverageResult(
            part=part, sample=sample, prompt=samples[sample].prompt, steps=ranges(sorted(steps)),
            calls=sum(steps.values()), of=made.get(part, sum(steps.values())),
        )
        for part, seen in coverage.calls.items() for sample, steps in seen.items()
    ]  # fmt: skip
    warnings = [*coverage.gaps([network.part.name for network in networks]), *filled_steps(networks)]
    alike: dict[tuple[str, str, str], list[int]] = {}
    for row in rows:
        calls = f"{row.calls} of {row.of}" if row.calls < row.of else f"{row.calls}"
        alike.setdefault((row.part, row.steps, calls), []).append(row.sample)
    for (part, steps, calls), seen in alike.items():
        what = f"samples {ranges(seen)}: of each" if len(seen) > 1 else f"sample {seen[0]}:"
        log.info("%s saw %s steps %s, %s calls", part, what, steps, calls)
    for warning in warnings:
        log.warning("%s", warning)
    return CoverageTable(rows, warnings)


def filled_steps(networks: Sequence[Network]) -> list[str]:
    """One sentence for each part with layers that have no scale of their own for some steps."""
    filled = {
        network.part.name: {step for layer in network.layers.values() if layer.state.steps is not None
                            for step in layer.state.steps.filled}
        for network in networks
    }  # fmt: skip
    return [
        f"{part} was not called in the steps {ranges(sorted(steps))}: they have the act scales of the nearest step"
        for part, steps in filled.items()
        if steps
    ]
