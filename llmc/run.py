"""One run, as a straight line: load, calibrate, export, judge, report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmc import distributed
from llmc.checks.entry import check_network, targets_of
from llmc.config.schema import Config
from llmc.engine import float_run
from llmc.engine.calibrate import CalibrationPlan, calibrate
from llmc.engine.device import choose_device
from llmc.engine.loading import SMALLER, given_model, load_model, orders_of
from llmc.engine.network import Network, prepare_all
from llmc.eval.results import Results
from llmc.export.base import Exporter
from llmc.judging.judge import LESS, judge
from llmc.judging.judgement import Judgement
from llmc.ledger.coverage import CoverageTable, coverage_table
from llmc.ledger.exports import FEWER, write_exports
from llmc.ledger.folder import RunFolder, working_in
from llmc.ledger.resume import calibration_journal, forget, judging_kept
from llmc.ledger.summary import collect
from llmc.ledger.usage import counting
from llmc.models.base import check_adapter
from llmc.models.encoded import Encoded
from llmc.models.loaded import LoadedModel


def run(config: Config) -> Results:
    """Everything that a configuration asks for; results and report are in the run folder when it returns."""
    device = choose_device(config.base.device)
    check_adapter(type(config.model.adapter()), config.model.path)
    with distributed.joined(device), working_in(config, distributed.rank() == 0, device) as folder:
        started = start(config, folder)
        with counting(started.networks, folder.note_forward):
            coverage = started.calibrate()
            checkpoint = started.export(config.save.targets())
            judgement = started.judge(config) if config.eval is not None else None
            results = started.report(config, coverage, judgement, checkpoint)
        forget(folder)
        return results


def start(config: Config, folder: RunFolder, pipeline: Any = None, runs: bool = False) -> Started:
    """Load the model, or take the pipeline that is given, and make its networks ready; what cannot work is refused.
    `runs` loads the pipeline also where weights are all that is looked at."""
    folder.introduce(config)
    with folder.phase("load", SMALLER):
        skeletons = check_network(config)
        if pipeline is None:
            model, parts = load_model(config, folder.device, skeletons, runs)
        else:
            model, parts = given_model(config, pipeline)
        attention, original = config.attention_policy(), model.adapter.original
        networks = prepare_all(parts, orders_of(config), targets_of(config), attention, original)
        if all(network.part.is_denoiser for network in networks):  # else what encoders give depends on the position
            model = replace(model, encoded=Encoded())
    return Started(config, folder, model, networks)


@dataclass(frozen=True)
class Started:
    """A run whose networks are ready."""

    config: Config
    folder: RunFolder
    model: LoadedModel
    networks: Sequence[Network]

    def calibrate(self) -> CoverageTable:
        """Let the recipe work on every block; returns which calls were seen."""
        with self.folder.phase("calibrate", float_run.LESS):
            plan = CalibrationPlan.of(self.config)
            journal = calibration_journal(self.config, self.model, self.folder)
            seen = calibrate(self.model, self.networks, plan, journal)
            made = self.model.call_counts(plan.samples[0][2]) if seen.calls else {}
            return coverage_table(seen, self.networks, [sample for _, sample, _ in plan.samples], made)

    def export(self, targets: Sequence[tuple[Exporter, Path]]) -> Path | None:
        """Write what was calibrated; returns the first target's folder."""
        with self.folder.phase("export", FEWER):
            return write_exports(self.config, self.networks, targets, self.folder)

    def judge(self, config: Config) -> Judgement:
        """Make videos and replays as the `eval` section says."""
        with self.folder.phase("judge", LESS):
            kept = judging_kept(config, self.model, self.folder)
            return judge(config, self.model, self.networks, self.folder.path, kept)

    def report(
        self, config: Config, coverage: CoverageTable, judgement: Judgement | None, checkpoint: Path | None
    ) -> Results:
        """Write results and report."""
        with self.folder.phase("report", LESS):
            return collect(config, self.networks, coverage, judgement, checkpoint, self.folder)
