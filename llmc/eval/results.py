"""results.json: everything that a run measured; `run.py` fills it, the report and the terminal table read it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from llmc.atomic import atomic_file
from llmc.errors import CalibrationError
from llmc.eval.gate_settings import GateResult
from llmc.eval.metrics.base import Metric
from llmc.files.json_text import read_object
from llmc.files.words import shown
from llmc.plugin import Strict, discover

if TYPE_CHECKING:
    from rich.table import Table


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Figure = Annotated[float | None, BeforeValidator(_finite)]  # JSON has neither NaN nor infinity: they are no figure
Figures = dict[str, Figure]  # metric -> figure

# where a video can come from, in the order that tables show, and what a reader calls it
POSITIONS = {
    "float": "float",
    "pretrain": "float, reloaded",
    "baseline": "RTN baseline",
    "fp8": "fp8 per channel",
    "transformed": "transformed",
    "fake_quant": "quantized",
    "real_quant": "quantized, real arithmetic",
}
BASELINE, QUANTIZED = "baseline", "fake_quant"


class SampleResult(Strict):
    """One sample: its figures and its videos at each position; paths are relative to the run folder."""

    name: str
    prompt: str
    image: str | None = None
    seed: int
    steps: dict[str, list[Figure]] = Field({})  # teacher-forced error of each denoising step
    metrics: dict[str, Figures] = Field({})
    per_frame: dict[str, dict[str, list[Figure]]] = Field({})
    videos: dict[str, str] = Field({})


class BlockResult(Strict):
    """The relative error of one block's output."""

    name: str
    error: Figure


class LayerResult(Strict):
    """One quantized layer: what was done to it and what it costs."""

    name: str
    spec: str
    transforms: str = ""
    method: str = ""
    error: Figure = None
    baseline_error: Figure = None
    weight_error: Figure = None
    overfit: Figure = None  # error on calls kept apart over that on the calls that a solution was tried on


class AttentionResult(Strict):
    """One attention that was to be quantized, and the error of its output on calibration calls."""

    name: str
    spec: str
    quantized: bool  # False: it was left float, its error is above what was allowed
    error: Figure = None


class CoverageResult(Strict):
    """What one part saw of one calibration sample."""

    part: str
    sample: int
    prompt: str
    steps: str  # such as 0-12
    calls: int
    of: int  # that the sample has


class PhaseResult(Strict):
    """What one phase of the run took."""

    seconds: float
    forwards: float = 0.0  # of denoising networks, on all ranks; a block that ran by itself counts as its share
    host_bytes: int = 0  # the most that one rank held at once, without what only maps files
    device_bytes: int = 0  # the same of its device


class Results(Strict):
    """One run. `metrics` are means over the samples."""

    run: str
    name: str
    created: str
    checkpoint: str | None = None
    report: str | None = None
    device: str
    versions: dict[str, str] = Field({})
    recipe: str
    config: dict[str, Any] = Field({})
    phases: dict[str, PhaseResult] = Field({})
    metrics: dict[str, Figures] = Field({})
    ratio: Figures = Field({})
    gate: GateResult | None = None
    samples: list[SampleResult] = Field([])
    blocks: dict[str, list[BlockResult]] = Field({})
    encoders: dict[str, Figures] = Field({})  # position -> encoder -> relative error of what the pipeline reads of it
    layers: list[LayerResult] = Field([])
    attentions: list[AttentionResult] = Field([])
    rejected: dict[str, int] = Field({})
    coverage: list[CoverageResult] = Field([])
    warnings: list[str] = Field([])


class Column(Strict):
    """How one figure is shown."""

    key: str
    title: str
    unit: str = ""
    higher: bool
    digits: int = 4

    def show(self, value: float | None) -> str:
        """The figure in print; an error too small for its decimals in powers of ten."""
        if value is None:
            return "–"
        return f"{value:.1e}" if 0 < abs(value) < 10**-self.digits * 5 else f"{value:.{self.digits}f}"

    def heading(self) -> str:
        """Title, unit, and which way is better."""
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.title}{unit} {'↑' if self.higher else '↓'}"


def columns() -> dict[str, Column]:
    """Every figure that a table can show: qualities, then errors, of each metric plug-in and of the model itself."""
    found = [
        Column(key=name, title=metric.title, unit=metric.unit, higher=metric.better == "higher", digits=metric.digits)
        for name, metric in discover("llmc.eval.metrics", Metric).items()
    ]
    found.append(Column(key="latent_error", title="latent error", higher=False))
    found.append(Column(key="teacher_forced_error", title="teacher-forced error", higher=False))
    return {column.key: column for column in sorted(found, key=lambda column: not column.higher)}


def ordered(positions: Mapping[str, object]) -> list[str]:
    """The positions in the order of `POSITIONS`, unknown ones last."""
    known = [position for position in POSITIONS if position in positions]
    return known + [position for position in positions if position not in POSITIONS]


def ratios(metrics: Mapping[str, Figures]) -> Figures:
    """Quantized against the baseline: errors as a ratio (below 1 is a gain), PSNR as a difference in dB."""
    quantized, baseline = metrics.get(QUANTIZED, {}), metrics.get(BASELINE, {})
    found: Figures = {}
    for key in ("teacher_forced_error", "latent_error"):
        ours, theirs = quantized.get(key), baseline.get(key)
        found[key] = ours / theirs if ours is not None and theirs else None
    ours, theirs = quantized.get("psnr"), baseline.get("psnr")
    found["psnr_gain_db"] = ours - theirs if ours is not None and theirs is not None else None
    return found


def write_results(path: Path, results: Results) -> None:
    """Write results.json; it appears whole or not at all."""
    with atomic_file(path) as file:
        file.write(results.model_dump_json(indent=2).encode())


def read_results(path: Path) -> Results:
    """Read what `write_results` wrote."""
    try:
        return Results.model_validate(read_object(path, CalibrationError))
    except ValidationError as error:
        first = error.errors()[0]
        where = shown(".".join(map(str, first["loc"])))
        raise CalibrationError(
            f"{path} is no results.json of a run: {where}: {shown(first['msg'])}; name the file of a whole run, or "
            "run it again"
        ) from error


def summary(results: Results) -> dict[str, Any]:
    """The last line of `--json`: where things lie, and the mean figures."""
    said = {"run", "checkpoint", "report", "metrics", *(["gate"] if results.gate is not None else [])}
    return results.model_dump(mode="json", include=said)


def summary_table(results: Results) -> Table:
    """The mean figures of every position, for a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = [column for key, column in columns().items() if any(key in m for m in results.metrics.values())]
    # Text, since a name with [brackets] is markup to rich
    table = Table(title=Text(f"{results.name}: against the float model"), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for column in shown:
        table.add_column(column.heading(), justify="right")
    for position in ordered(results.metrics):
        cells = [column.show(results.metrics[position].get(column.key)) for column in shown]
        table.add_row(Text(POSITIONS.get(position, position)), *cells, style="bold" if position == QUANTIZED else None)
    return table
