"""One HTML file that shows a run: figures, videos side by side, curves, layers. It needs no network, no other file."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path

import jinja2
import yaml

from llmc.atomic import atomic_file, scratch_folder
from llmc.eval import charts
from llmc.eval.charts import Chart, line_chart
from llmc.eval.results import (
    BASELINE,
    POSITIONS,
    QUANTIZED,
    Column,
    Figures,
    LayerResult,
    Results,
    SampleResult,
    columns,
    ordered,
)
from llmc.eval.video import GAIN, difference, read_video, write_video
from llmc.log import byte_size

WATCHED = ("float", BASELINE, QUANTIZED)  # videos beside each other; their difference comes last
OPEN_LAYERS = 24  # rows of the layer table that are visible at once


@dataclass(frozen=True)
class Tile:
    """One headline figure, and how it stands against the baseline."""

    title: str
    value: str
    gain: str = ""
    better: bool = False
    note: str = "against the float model"


@dataclass(frozen=True)
class Row:
    """One position of a table of figures; `best` says which cells lead among the quantized ones."""

    key: str
    label: str
    cells: list[str]
    best: list[bool]


@dataclass(frozen=True)
class Clip:
    """One video or image of a sample; `source` is the file itself as a data URI, or a relative link to it."""

    label: str
    source: str
    inlined: bool
    image: bool


@dataclass(frozen=True)
class Sample:
    """One sample as the template shows it."""

    result: SampleResult
    clips: list[Clip]
    rows: list[Row]
    curve: Chart | None
    curve_title: str
    frames: int


def write_report(path: Path, results: Results, media: Path, max_samples: int = 6, max_bytes: int = 100 * 2**20) -> Path:
    """Write the report of `results` to `path`; the paths of its videos are relative to the folder `media`.

    At most `max_samples` samples, and at most `max_bytes` of files, are put into the page; the others are linked.
    """
    known = columns()
    shown = [column for key, column in known.items() if any(m.get(key) is not None for m in results.metrics.values())]
    samples, room = [], max_bytes
    for index, sample in enumerate(results.samples):
        clips = _clips(sample, media, path.parent, room if index < max_samples else 0)
        room -= sum(len(clip.source) for clip in clips if clip.inlined)
        samples.append(_sample(sample, clips, shown))
    layers = sorted(results.layers, key=lambda layer: -1.0 if layer.error is None else layer.error, reverse=True)
    page = _template().render(
        results=results,
        columns=shown,
        tiles=_tiles(results, shown),
        rows=_rows(results.metrics, shown),
        samples=samples,
        step_chart=_step_chart(results.samples),
        block_chart=_block_chart(results),
        layers=layers,
        open_layers=OPEN_LAYERS,
        worst=_worst(layers),
        overfitting=any(layer.overfit is not None for layer in layers),
        error=known["latent_error"].show,
        gain=GAIN,
        colour=_colour,
        label=_label,
        box=charts,
        byte_size=byte_size,
        on_device=any(took.device_bytes for took in results.phases.values()),
        config=yaml.safe_dump(results.model_dump(mode="json")["config"], sort_keys=False, allow_unicode=True),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(page.encode())
    return path


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("llmc.eval", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja")


def _tiles(results: Results, shown: Sequence[Column]) -> list[Tile]:
    quantized, baseline = results.metrics.get(QUANTIZED, {}), results.metrics.get(BASELINE, {})
    tiles = []
    for column in shown:
        ours, theirs = quantized.get(column.key), baseline.get(column.key)
        title = f"{column.title} {column.unit}".strip()
        if ours is None:
            continue
        if theirs is None:
            tiles.append(Tile(title, column.show(ours)))
        else:
            better, note = (ours > theirs) is column.higher, f"{POSITIONS[BASELINE]} {column.show(theirs)}"
            tiles.append(Tile(title, column.show(ours), _gain(ours, theirs, column), better, note))
    return tiles


def _gain(ours: float, theirs: float, column: Column) -> str:
    """A quality as a difference, an error as a ratio; nothing when they are equal."""
    if ours == theirs:
        return ""
    if column.higher or not ours or not theirs:
        return f"{'+' if ours > theirs else '−'}{column.show(abs(ours - theirs))} {column.unit}".strip()
    return f"{theirs / ours:.1f}× smaller" if ours < theirs else f"{ours / theirs:.1f}× larger"


def _rows(metrics: dict[str, Figures], shown: Sequence[Column]) -> list[Row]:
    rivals = [figures for position, figures in metrics.items() if position in (BASELINE, QUANTIZED)]
    leads = {}
    for column in shown:
        values = [value for figures in rivals if (value := figures.get(column.key)) is not None]
        if len(set(values)) > 1:
            leads[column.key] = max(values) if column.higher else min(values)
    return [
        Row(
            key=position,
            label=POSITIONS.get(position, position),
            cells=[column.show(metrics[position].get(column.key)) for column in shown],
            best=[
                position in (BASELINE, QUANTIZED)
                and column.key in leads
                and metrics[position].get(column.key) == leads[column.key]
                for column in shown
            ],
        )
        for position in ordered(metrics)
    ]


def _sample(sample: SampleResult, clips: list[Clip], shown: Sequence[Column]) -> Sample:
    """The curve over the frames is of the first metric that has one, PSNR before others."""
    present = dict.fromkeys(key for figures in sample.per_frame.values() for key in figures)
    for column in sorted(shown, key=lambda column: column.key != "psnr"):
        series = {
            p: found for p in ordered(sample.per_frame) if len(found := sample.per_frame[p].get(column.key, [])) > 1
        }
        if column.key in present and series:
            count = max(len(figures) for figures in series.values())
            curve = line_chart(series, _labels(series), [f"frame {i}" for i in range(count)], "frame")
            return Sample(sample, clips, _rows(sample.metrics, shown), curve, column.heading(), count)
    return Sample(sample, clips, _rows(sample.metrics, shown), None, "", 0)


def _clips(sample: SampleResult, media: Path, page: Path, room: int) -> list[Clip]:
    """The videos in watching order with the difference last, inlined when all of them are there and fit into `room`."""
    files = {position: media / sample.videos[position] for position in WATCHED if position in sample.videos}
    present = all(file.is_file() for file in files.values())
    if not present or sum(file.stat().st_size for file in files.values()) * 4 / 3 > room:  # 4/3: base64
        return [
            Clip(_label(p), Path(os.path.relpath(file, page)).as_posix(), inlined=False, image=file.suffix == ".png")
            for p, file in files.items()
        ]
    clips = [_inlined(_label(p), file) for p, file in files.items()]
    if {"float", QUANTIZED} <= files.keys():
        with scratch_folder("video") as folder:
            amplified = difference(read_video(files["float"]), read_video(files[QUANTIZED]))
            clips.append(_inlined(f"difference × {GAIN}", write_video(folder / "difference.mp4", amplified)))
    return clips


def _inlined(label: str, file: Path) -> Clip:
    image = file.suffix == ".png"
    content = base64.b64encode(file.read_bytes()).decode()
    return Clip(label, f"data:{'image/png' if image else 'video/mp4'};base64,{content}", inlined=True, image=image)


def _step_chart(samples: Sequence[SampleResult]) -> Chart | None:
    """Teacher-forced error of each denoising step, mean of the samples."""
    positions = ordered(dict.fromkeys(position for sample in samples for position in sample.steps))
    series = {p: _mean_curve([sample.steps[p] for sample in samples if p in sample.steps]) for p in positions}
    return _chart(series, "denoising step", [f"step {i}" for i in range(max(map(len, series.values()), default=0))])


def _block_chart(results: Results) -> Chart | None:
    series = {p: [block.error for block in results.blocks[p]] for p in ordered(results.blocks)}
    names = max(([block.name for block in blocks] for blocks in results.blocks.values()), key=len, default=[])
    return _chart(series, "block", names)


def _chart(series: dict[str, list[float | None]], x_title: str, names: list[str]) -> Chart | None:
    drawn = {p: figures for p, figures in series.items() if any(figures)}  # the float model's zeros are no curve
    return line_chart(drawn, _labels(drawn), names, x_title)


def _mean_curve(curves: Sequence[Sequence[float | None]]) -> list[float | None]:
    means: list[float | None] = []
    for figures in zip_longest(*curves):
        found = [figure for figure in figures if figure is not None]
        means.append(sum(found) / len(found) if found else None)
    return means


def _worst(layers: Sequence[LayerResult]) -> float:
    """What the longest bar of the layer table stands for."""
    errors = [error for layer in layers for error in (layer.error, layer.baseline_error) if error is not None]
    return max(errors, default=0.0) or 1.0


def _labels(series: dict[str, list[float | None]]) -> dict[str, str]:
    return {position: _label(position) for position in series}


def _label(position: str) -> str:
    return POSITIONS.get(position, position)


def _colour(position: str) -> str:
    """The CSS colour of a position."""
    return f"var(--{position})" if position in POSITIONS else "var(--soft)"
