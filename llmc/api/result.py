"""What quantizing gives: a model that computes as quantized, to be judged and to be exported."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llmc import distributed
from llmc.api.recipe import exported, judged
from llmc.api.samples import Asked, Samples
from llmc.checks.configuration import check_config
from llmc.checks.entry import check_network
from llmc.config.document import Document
from llmc.config.schema import Config
from llmc.engine.carried import carried_problem
from llmc.engine.device import choose_device
from llmc.errors import UnsupportedSpec
from llmc.eval.results import LayerResult, Results, ordered
from llmc.layers.linear import in_mode
from llmc.ledger.coverage import CoverageTable
from llmc.ledger.folder import RunFolder, working_in
from llmc.ledger.summary import layer_table
from llmc.ledger.usage import counting
from llmc.log import start as shown_log
from llmc.run import Started

Figures = dict[str, float | None]


@dataclass(frozen=True)
class Scores:
    """What judging found: figures and videos of every position (float, baseline, fake_quant, ...)."""

    results: Results  # all that the report tells

    @property
    def figures(self) -> dict[str, Figures]:
        """Position -> metric -> its mean over the videos."""
        return {position: dict(self.results.metrics[position]) for position in ordered(self.results.metrics)}

    @property
    def videos(self) -> dict[str, list[Path]]:
        """Position -> the video of each sample, or its image."""
        found: dict[str, list[Path]] = {}
        for sample in self.results.samples:
            for position, file in sample.videos.items():
                found.setdefault(position, []).append(Path(self.results.run) / file)
        return found

    @property
    def report(self) -> Path:
        """The page with everything in it."""
        return Path(self.results.run) / "report.html"


@dataclass
class Result:
    """A quantized model, whose results lie in `run_dir`."""

    document: Document = field(repr=False)
    started: Started = field(repr=False)
    coverage: CoverageTable = field(repr=False)
    checkpoint: Path | None = None  # the folder of the last export

    @property
    def run_dir(self) -> Path:
        """The folder of the run: what `llmc verify --against` takes."""
        return self.started.folder.path

    @property
    def pipeline(self) -> Any:
        """The pipeline, which computes as quantized: call it as it is called in float."""
        for network in self.started.networks:
            for switched in network.switched:
                switched.mode = "quantized"
        return self.started.model.pipeline

    @property
    def layers(self) -> list[LayerResult]:
        """What became of every linear."""
        return layer_table(self.started.networks)

    def judge(
        self,
        samples: Samples = None,
        sampling: Asked = None,
        positions: Sequence[str] = ("fake_quant",),
        metrics: Sequence[Any] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> Scores:
        """Make videos from the same seeds in float, plainly rounded and quantized, and compare them. What is left out
        is as the recipe judges, or else as it was calibrated."""
        config = judged(
            self.document, samples, sampling, {"eval_pos": tuple(positions), "metrics": metrics, "seeds": seeds}
        )
        with self._at_work(config) as started:
            judgement = started.judge(config)
            return Scores(started.report(config, self.coverage, judgement, self.checkpoint))

    def export(self, target: str, path: str | Path | None = None, **settings: Any) -> Path:
        """Write real weights for a target; `settings` are its own. Returns the folder to give to the runtime."""
        config = exported(self.document, target, settings, path)
        check_network(config)
        with self._at_work(config) as started:
            for exporter, _ in config.save.targets():
                for network in started.networks:
                    if (problem := carried_problem(network, exporter)) is not None:
                        raise UnsupportedSpec(
                            f"{target} cannot store what was calibrated: {problem}.\n  What to do: quantize for it, "
                            f"llmc.quantize(..., targets=[{target!r}])"
                        )
            self.checkpoint = started.export(config.save.targets())
        assert self.checkpoint is not None
        return self.checkpoint

    @contextmanager
    def _at_work(self, config: Config) -> Iterator[Started]:
        """The run again, of another configuration of the same networks, which are float meanwhile."""
        check_config(config)
        with ExitStack() as stack:
            folder = stack.enter_context(at_work(config))
            folder.phases = self.started.folder.phases
            for network in self.started.networks:
                stack.enter_context(in_mode(network.switched, "float"))
            stack.enter_context(counting(self.started.networks, folder.note_forward))
            yield replace(self.started, config=config, folder=folder)


@contextmanager
def at_work(config: Config) -> Iterator[RunFolder]:
    """The folder of the run while something of it is done; what it says is shown."""
    device = choose_device(config.base.device)
    with shown_log(), distributed.joined(device), working_in(config, distributed.rank() == 0, device) as folder:
        yield folder
