"""The table of what was observed: each part, each calibration sample, the steps that it ran."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmc.calib.coverage import Coverage
from llmc.eval.results import CoverageResult
from llmc.log import log
from llmc.models.base import Sample
from llmc.steps.explain import ranges
from llmc.steps.network import Network


@dataclass(frozen=True)
class CoverageTable:
    """One row for each part and sample, and what is missing."""

    rows: list[CoverageResult]
    warnings: list[str]


def coverage_table(coverage: Coverage, networks: Sequence[Network], samples: Sequence[Sample]) -> CoverageTable:
    """The rows, also written to the log of the run."""
    rows = [
        CoverageResult(
            part=part, sample=sample, prompt=samples[sample].prompt, steps=ranges(sorted(steps)),
            calls=sum(steps.values()),
        )
        for part, seen in coverage.calls.items() for sample, steps in seen.items()
    ]  # fmt: skip
    warnings = [*coverage.gaps([network.part.name for network in networks]), *filled_steps(networks)]
    for row in rows:
        log.info("%s saw sample %d: steps %s, %d calls", row.part, row.sample, row.steps, row.calls)
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
