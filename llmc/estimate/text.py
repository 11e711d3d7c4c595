"""An estimate in words, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from llmc.estimate.facts import Facts
from llmc.estimate.stages import Stage, peaks
from llmc.estimate.verdict import SPARE, Verdict
from llmc.eval.results import PhaseResult
from llmc.log import byte_size

PHASES = {"record": "calibrate"}  # stage -> the phase of a run that it is measured in, if that is called otherwise
HEADINGS = ("", "device", "host", "files", "forwards", "reads")


def as_text(facts: Facts, verdict: Verdict, measured: Mapping[str, PhaseResult]) -> str:
    """Sizes, a row for each stage, and whether it fits."""
    rows = [HEADINGS, *(_row(stage) for stage in verdict.stages)]
    lines = [*_sizes(facts), f"machine: {_machine(verdict)}", "", *_table(rows)]
    if measured:
        lines += ["", "peaks against those that the last run measured:", *_table(_compared(verdict.stages, measured))]
    return "\n".join([*lines, "", sentence(verdict)])


def as_json(facts: Facts, verdict: Verdict, measured: Mapping[str, PhaseResult]) -> dict[str, Any]:
    """All of it in plain values; bytes are numbers."""
    device, host, disk = peaks(verdict.stages)
    return {
        "stages": [asdict(stage) for stage in verdict.stages],
        "peak": {"device": device, "host": host, "disk": disk},
        "forwards": sum(stage.forwards for stage in verdict.stages),
        "flops_of_a_forward": {work.name: work.flops for work in facts.work},
        "machine": asdict(verdict.machine),
        "resident": {work.name: verdict.held.resident(work) for work in facts.work},
        "fits": verdict.fits,
        "set": verdict.advice,
        "measured": {name: phase.model_dump() for name, phase in measured.items()},
    }


def sentence(verdict: Verdict) -> str:
    """Whether it fits, and what to set if it does not."""
    device, host, disk = peaks(verdict.stages)
    takes = f"{byte_size(host)} of the host" if device == 0 else f"{byte_size(device)} of the device and "
    takes += "" if device == 0 else f"{byte_size(host)} of the host"
    takes += f", {byte_size(disk)} in files"
    if verdict.fits:
        return f"fits: {takes}"
    if not verdict.advice:
        return (
            f"does not fit: {takes}, and no setting of memory is enough; smaller or shorter videos take less "
            "(target_height, target_width, num_frames), or another machine (--budget, --ram) has more"
        )
    said = ", ".join(f"{key}: {_shown(value)}" for key, value in verdict.advice.items())
    return f"does not fit: {takes}; set {said}"


def _sizes(facts: Facts) -> list[str]:
    lines = []
    for work in facts.work:
        forward = f"{work.flops / 1e15:.3g} PFLOP" if work.flops >= 1e13 else f"{work.flops / 1e9:.3g} GFLOP"
        lines.append(
            f"{work.name}: {byte_size(work.all_lent + work.stem)} in "
            f"{len(work.blocks)} blocks of up to {byte_size(max(work.whole))}; a forward takes {forward}, and blocks "
            f"give {byte_size(work.stream)} that is kept of a call"
        )
    if beside := facts.shapes.components:
        lines.append("beside: " + ", ".join(f"{name} {byte_size(size)}" for name, size in beside.items()))
    return lines


def _machine(verdict: Verdict) -> str:
    machine = verdict.machine
    stays = ", ".join(
        f"{verdict.held.resident(work)} of {len(work.blocks)} blocks of {work.name} stay"
        for work in verdict.held.facts.work
    )
    host = f"{byte_size(machine.host)} of the host"
    if machine.is_cpu:
        return f"{host}; {stays}"
    device = "a device of unknown size" if machine.device is None else f"{byte_size(machine.device)} of the device"
    return f"{device} (less {byte_size(SPARE)} for its libraries), {host}; {stays}"


def _row(stage: Stage) -> tuple[str, ...]:
    sizes = [byte_size(size) if size else "–" for size in (stage.device, stage.host, stage.disk)]
    forwards = f"{stage.forwards:.0f}" if stage.forwards else "–"
    return (stage.name, *sizes, forwards, byte_size(stage.reads) if stage.reads else "–")


def _compared(stages: Sequence[Stage], measured: Mapping[str, PhaseResult]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("", "device", "measured", "host", "measured")]
    for name, phase in measured.items():
        own = [stage for stage in stages if PHASES.get(stage.name, stage.name) == name]
        if own:
            sizes = (
                max(each.device for each in own),
                phase.device_bytes,
                max(each.host for each in own),
                phase.host_bytes,
            )
            rows.append((name, *(byte_size(size) if size else "–" for size in sizes)))
    return rows


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for name, *cells in rows:
        right = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *right]))
    return lines


def _shown(value: object) -> str:
    return (
        byte_size(value).replace(" bytes", "B").replace(" ", "")
        if isinstance(value, int) and value > 1000
        else str(value)
    )
