"""One run, as a straight line: read, load, calibrate, export, judge, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from llmc import distributed
from llmc.checks.attentions import check_attentions
from llmc.checks.layers import check_layers
from llmc.checks.scarce import scarcity
from llmc.config.schema import Config
from llmc.engine import float_run
from llmc.engine.calibrate import CalibrationPlan, calibrate
from llmc.engine.device import choose_device
from llmc.engine.lending import Lending, lent_parts
from llmc.engine.network import Network, prepare_all
from llmc.engine.source import check_components, pipeline_around, skeleton
from llmc.errors import ExportError
from llmc.eval.results import Results
from llmc.export.base import Exporter
from llmc.export.manifest import MANIFEST, UNFINISHED
from llmc.export.part import FinishedPart
from llmc.judging.judge import LESS, judge
from llmc.layers.turns import AT_ONCE
from llmc.ledger.coverage import coverage_table
from llmc.ledger.digests import weight_digests
from llmc.ledger.folder import RunFolder, versions, working_in
from llmc.ledger.resume import calibration_journal, forget, judging_kept
from llmc.ledger.summary import collect, describe
from llmc.ledger.usage import counting
from llmc.log import log
from llmc.models.base import check_adapter
from llmc.models.encoders import encoder_parts
from llmc.models.loaded import LoadedModel

SMALLER = "base.resident: 0; model.torch_dtype: bfloat16, half of float32; of a device: base.device: cpu"


def run(config: Config) -> Results:
    """Everything that a configuration asks for; results and report are in the run folder when it returns."""
    device = choose_device(config.base.device)
    check_adapter(type(config.model.adapter()), config.model.path)
    with distributed.joined(device), working_in(config, distributed.rank() == 0, device) as folder:
        return _run(config, device, folder)


def _run(config: Config, device: torch.device, folder: RunFolder) -> Results:
    if folder.writes:
        folder.write_json("config.json", config.model_dump(mode="json"))
        folder.write_json("versions.json", versions())
        for note in config.source.notes if config.source else ():
            log.info("note: %s", note)
        if (warning := scarcity(config)) is not None:
            log.warning("%s", warning)
    with folder.phase("load", SMALLER):
        pipeline, networks, judged = load(config, device)
    with counting(networks, folder.note_forward):
        return work_on(config, pipeline, networks, judged, device, folder)


def load(config: Config, device: torch.device) -> tuple[Any, list[Network], dict[str, Any]]:
    """The pipeline, if something has to run, its networks made ready, and how what they make will be judged; refused
    now where a target or a grid cannot take them."""
    adapter, outputs = config.model.adapter(), [exporter for exporter, _ in config.save.targets()]
    orders = {section: (config.policy(section), config.recipe(section)) for section in config.quant.sections()}
    attention = config.attention_policy()
    bare = skeleton(config.model, orders.keys())
    check_layers(adapter, bare, orders, outputs)
    check_attentions(bare, attention, outputs)
    runs = config.eval is not None or config.observes()  # else weights are all that is looked at
    resident = None if config.base.resident == "auto" else config.base.resident
    parts = lent_parts(config.model, bare, Lending(device, resident, AT_ONCE) if runs else Lending(device, 0, 1))
    pipeline = None
    if runs or len(parts) < len(bare):
        pipeline = pipeline_around(parts, config.model, device)
        parts = [*adapter.parts(pipeline), *encoder_parts(pipeline, adapter.encoders, config.quant.sections())]
        check_components(pipeline, parts)
    networks = prepare_all(parts, orders, outputs, attention, adapter.original)
    judged = judged_sampling(config, adapter.index(config.model.path).schedule())
    for exporter in outputs:
        if (problem := exporter.schedule_problem(judged)) is not None:
            raise ExportError(f"{exporter.name} was asked for in `save`, and {problem}")
    return pipeline, networks, judged


def work_on(
    config: Config,
    pipeline: Any,
    networks: Sequence[Network],
    judged: Mapping[str, Any],
    device: torch.device,
    folder: RunFolder,
) -> Results:
    """Calibrate, export, judge and report."""
    model, exporters = LoadedModel(config.model.adapter(), pipeline), config.save.targets()
    with folder.phase("calibrate", float_run.LESS):
        samples = config.calib_samples(model.adapter)
        planned = [(i, sample, config.calib_sampling(i)) for i, sample in enumerate(samples)]
        rows, streamed = (config.calib.max_rows, config.calib.streamed) if config.calib else (0, False)
        max_calls = config.calib.max_calls if config.calib else None
        attention = config.attention_policy()
        allowed = None if attention is None else attention.max_error
        journal = calibration_journal(config, samples, device, folder)
        plan = CalibrationPlan(planned, rows, max_calls, streamed, allowed, config.base.memory)
        seen = calibrate(model, networks, plan, journal)
        made = model.call_counts(planned[0][2]) if seen.calls else {}
        coverage = coverage_table(seen, networks, samples, made)
    with folder.phase("export", "one target at a time, or other programs ended: what was calibrated is kept"):
        checkpoint = export(config, networks, exporters, folder, judged)
        if folder.writes and exporters:
            folder.write_json("weights.json", weight_digests(networks))
    judgement = None
    if config.eval is not None:
        with folder.phase("judge", LESS):
            kept = judging_kept(config, samples, device, folder)
            judgement = judge(config, model, networks, folder.path, kept)
    with folder.phase("report", LESS):
        results = collect(config, networks, coverage, judgement, checkpoint, folder)
    distributed.wait()
    forget(folder)
    return results


def judged_sampling(config: Config, schedule: Mapping[str, float]) -> dict[str, Any]:
    """How the videos are made that a recipe is judged by; without `eval` those that it is calibrated on, if any."""
    samplings = config.eval_samplings() or (() if config.calib is None else (config.calib_sampling(),))
    said = samplings[0].model_dump() if samplings else {}
    return {**schedule, **{key: value for key, value in said.items() if value is not None}}


def export(
    config: Config,
    networks: Sequence[Network],
    exporters: Sequence[tuple[Exporter, Path]],
    folder: RunFolder,
    sampling: Mapping[str, Any],
) -> Path | None:
    """Write every target that was asked for; returns the first one's folder."""
    written = []
    provenance = {
        "producer": f"llmc {versions()['llmc']}",
        "recipe": describe(config),
        "fingerprint": config.fingerprint(),
    }
    names = [network.part.name for network in networks]
    parts = [
        FinishedPart(
            name=network.part.name,
            module=network.part.module,
            layers=network.layers,
            renames=config.model.adapter().renames,
            source=config.model.path,
            provenance=provenance,
            sampling=sampling,
            section=network.part.section,
            others=tuple(name for name in names if name != network.part.name),
            folder=network.part.folder,
            config=network.part.config,
            errors={name: error.figures() for name, error in network.errors.items()},
            versions=versions(),
            attentions=network.attentions,
            original=network.original,
        )
        for network in networks
    ]
    for exporter, path in exporters if folder.writes else []:
        path.mkdir(parents=True, exist_ok=True)
        (path / UNFINISHED).write_text(config.fingerprint(), encoding="utf-8")
        (path / MANIFEST).unlink(missing_ok=True)  # until all is written, nothing says so
        written += [exporter.write(part, path) for part in parts]
        exporter.finish(parts, path)
        (path / UNFINISHED).unlink()
    distributed.wait()
    return written[0] if written else None
