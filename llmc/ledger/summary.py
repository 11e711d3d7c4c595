"""Turn what a run measured into `results.json`, videos, the layer table and the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from llmc import distributed
from llmc.algorithms.base import Algorithm
from llmc.calib.held_out import OVERFIT, overfit
from llmc.checks.scarce import worries
from llmc.config.schema import Config
from llmc.engine.network import Network
from llmc.eval.gating import hold
from llmc.eval.report import write_report
from llmc.eval.results import (
    AttentionResult,
    LayerResult,
    PhaseResult,
    Results,
    write_results,
)
from llmc.judging.judgement import Judgement
from llmc.ledger.coverage import CoverageTable
from llmc.ledger.folder import RunFolder, versions
from llmc.ledger.judged import judged_fields
from llmc.ledger.usage import Usage
from llmc.log import log
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
    warnings = [*worries(config), *coverage.warnings, *overfitting(networks), *judged.pop("warnings", [])]
    device = str(next(networks[0].part.module.parameters()).device)
    results = Results(
        run=str(folder.path), name=folder.path.name, created=datetime.now(UTC).isoformat(timespec="seconds"),
        checkpoint=None if checkpoint is None else str(checkpoint), report=str(folder.path / "report.html"),
        device=device, versions=versions(), recipe=describe(config), config=config.model_dump(mode="json"),
        phases=phase_results(folder.phases), layers=layers, attentions=attentions, rejected=rejections(networks),
        coverage=coverage.rows, warnings=list(dict.fromkeys(warnings)),
        **judged,
    )  # fmt: skip
    if folder.writes:
        if config.eval is not None and (gate := config.eval.gate) is not None:
            results = results.model_copy(update={"gate": hold(gate, results)})
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
    table = []
    for network in networks:
        for name, attention in network.attentions.items():
            table.append(
                AttentionResult(
                    name=network.prefix + name,
                    spec=str(attention.spec),
                    quantized=not attention.state.stays_float,
                    error=network.attention_errors.get(name),
                )
            )
    return sorted(table, key=lambda attention: attention.error or 0.0, reverse=True)


def rejections(networks: Sequence[Network]) -> dict[str, int]:
    """How many groups each method left alone because its transform did not pay, or did not treat as it was asked to."""
    found: Counter[str] = Counter()
    for network in networks:
        for block in network.blocks:
            found.update(block.rejected)
    return dict(found)


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
