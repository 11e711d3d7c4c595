"""A dated page of results: what was run, on what, and what came out."""

from __future__ import annotations

import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

from llmc.atomic import atomic_file
from llmc.ledger.folder import versions

RESULTS = Path(__file__).parent / "results"


def write_page(kind: str, table: str, device: torch.device, of: str = "", folder: Path = RESULTS) -> Path:
    """Write `<date>-<kind>-<device>.md`, with what it is `of` before the device; the command stands in it."""
    date = datetime.now(UTC).date().isoformat()
    name = (
        torch.cuda.get_device_name() if device.type == "cuda" else f"{_processor()}, {torch.get_num_threads()} threads"
    )
    command = shlex.join(["python", "-m", f"benchmarks.{kind}", *sys.argv[1:]])
    packages = ", ".join(f"{key} {value}" for key, value in versions().items())
    text = f"# {kind}, {date}\n\n`{command}` on {device.type} ({name}); {packages}\n\n```text\n{table}\n```\n"
    path = folder / f"{'-'.join(filter(None, [date, kind, of, device.type]))}.md"
    with atomic_file(path) as stream:
        stream.write(text.encode())
    return path


def _processor() -> str:
    """Its maker and kind, and whether it multiplies bf16 matrices in a unit of its own: ratios depend on it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    known = dict(line.split(":", 1) for line in lines if ":" in line)
    known = {key.strip(): value.strip() for key, value in known.items()}
    units = " with AMX" if "amx_bf16" in known.get("flags", "").split() else ""
    return f"{known.get('model name', platform.machine())}{units}"
