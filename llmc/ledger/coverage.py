"""The table of what was observed: each part, each calibration sample, the steps that it ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmc.calib.coverage import Coverage
from llmc.checks.explain import ranges
from llmc.engine.network import Network
from llmc.eval.results import CoverageResult
from llmc.log import log
from llmc.models.samples import Sample


@dataclass(frozen=True)
class CoverageTable:
    """One row for each part and sample, and what is missing."""

    rows: list[CoverageResult]
    warnings: list[str]


def coverage_table(
    coverage: Coverage, networks: Sequence[Network], samples: Sequence[Sample], made: Mapping[str, int]
) -> CoverageTable:
    """The rows, also written to the log of the run; a sample has so many calls of each denoising network."""
    rows = []
    for part, seen in coverage.calls.items():
        for sample, steps in seen.items():
            prompt, calls = samples[sample].prompt, sum(steps.values())
            said, of = ranges(sorted(steps)), made.get(part, calls)
            rows.append(CoverageResult(part=part, sample=sample, prompt=prompt, steps=said, calls=calls, of=of))
    warnings = [*coverage.gaps([network.part.name for network in networks]), *filled_steps(networks)]
    alike: dict[tuple[str, str, str], list[int]] = {}
    for row in rows:
        counted = f"{row.calls} of {row.of}" if row.calls < row.of else f"{row.calls}"
        alike.setdefault((row.part, row.steps, counted), []).append(row.sample)
    for (part, ran, counted), found in alike.items():
        what = f"samples {ranges(found)}: of each" if len(found) > 1 else f"sample {found[0]}:"
        log.info("%s saw %s steps %s, %s calls", part, what, ran, counted)
    for warning in warnings:
        log.warning("%s", warning)
    return CoverageTable(rows, warnings)


def filled_steps(networks: Sequence[Network]) -> list[str]:
    """One sentence for each part with layers that have no scale of their own for some steps."""
    said = []
    for network in networks:
        steps: set[int] = set()
        for layer in network.layers.values():
            if layer.state.steps is not None:
                steps |= set(layer.state.steps.filled)
        if steps:
            missed = f"{network.part.name} was not called in the steps {ranges(sorted(steps))}"
            said.append(f"{missed}: they have the act scales of the nearest step")
    return said
