"""The folder of a run: the resolved configuration, versions, how long each phase took, the layer table, the log."""

from __future__ import annotations

import csv
import io
import json
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from llmc.atomic import atomic_file

PACKAGES = ("llmc", "torch", "diffusers", "transformers", "safetensors", "numpy", "qtorch", "imageio-ffmpeg")


@dataclass
class RunFolder:
    """Where a run leaves what it knows; only rank 0 writes."""

    path: Path
    writes: bool
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time one phase of the run."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - start, 2)

    def write_json(self, name: str, value: Any) -> Path:
        return self.write_text(name, json.dumps(value, indent=1, ensure_ascii=False) + "\n")

    def write_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
        """A csv file."""
        text = io.StringIO(newline="")
        csv.writer(text).writerows([columns, *rows])
        return self.write_text(name, text.getvalue())

    def write_text(self, name: str, text: str) -> Path:
        with atomic_file(self.path / name) as file:
            file.write(text.encode())
        return self.path / name


def open_run_folder(path: Path, writes: bool) -> RunFolder:
    """Make the folder; a rank that does not write only knows where it is."""
    if writes:
        path.mkdir(parents=True, exist_ok=True)
    return RunFolder(path, writes)


def versions() -> dict[str, str]:
    """What the figures of a run depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found
