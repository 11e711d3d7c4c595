"""The folder of a run: the resolved configuration, versions, how long each phase took, the layer table, the log."""

from __future__ import annotations

import csv
import io
import platform
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from llmc.atomic import atomic_file, remove_abandoned_scratch
from llmc.checks.configuration import check_outputs
from llmc.checks.scarce import worries
from llmc.config.schema import Config
from llmc.convert.writer import write_json
from llmc.ledger.usage import Usage, measured
from llmc.lock import held
from llmc.log import attach_file, log
from llmc.memory import needed_for

PACKAGES = ("llmc", "torch", "diffusers", "transformers", "safetensors", "numpy", "qtorch", "imageio-ffmpeg")


@dataclass
class RunFolder:
    """Where a run leaves what it knows; only rank 0 writes."""

    path: Path
    writes: bool
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    phases: dict[str, Usage] = field(default_factory=dict)  # those that are over
    now: Usage = field(default_factory=Usage)  # of the phase that goes on

    def introduce(self, config: Config) -> None:
        """Write down what is about to run, and with which versions; say what is known against it."""
        if self.writes:
            self.write_json("config.json", config.model_dump(mode="json"))
            self.write_json("versions.json", versions())
            for note in config.source.notes if config.source else ():
                log.info("note: %s", note)
            for warning in worries(config):
                log.warning("%s", warning)

    @contextmanager
    def phase(self, name: str, smaller: str) -> Iterator[None]:
        """Measure one phase of the run, and say what takes less memory in it where that does not suffice."""
        self.now = Usage()
        with measured(self.now, self.device), needed_for(f"in the phase {name}", smaller):
            yield
        self.phases[name] = self.now

    def note_forward(self, share: float) -> None:
        """A network ran, or a share of it."""
        self.now.forwards += share

    def write_json(self, name: str, value: Any) -> Path:
        write_json(self.path / name, value)
        return self.path / name

    def write_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
        """A csv file."""
        text = io.StringIO(newline="")
        csv.writer(text).writerows([columns, *rows])
        return self.write_text(name, text.getvalue())

    def write_text(self, name: str, text: str) -> Path:
        with atomic_file(self.path / name) as file:
            file.write(text.encode())
        return self.path / name


@contextmanager
def working_in(config: Config, writes: bool, device: torch.device | None = None) -> Iterator[RunFolder]:
    """The folder of the run, with its log. It and all others that are written to are for no other run while the body
    runs; a rank that does not write only knows where it is."""
    path = config.run_dir
    with ExitStack() as stack:
        if writes:
            for folder, key in output_folders(config):
                stack.enter_context(held(folder, key))
            remove_abandoned_scratch()
            stack.enter_context(attach_file(path / "run.log"))
            check_outputs(config)  # another run may have written there since it was checked
        try:
            yield RunFolder(path, writes, device or torch.device("cpu"))
        except KeyboardInterrupt as interrupt:
            interrupt.add_note(f"What was finished is kept in {path}: the run goes on there.")
            log.debug("interrupted %s", interrupt)
            raise


def output_folders(config: Config) -> list[tuple[Path, str]]:
    """Every folder that a run writes to, and the key that names it."""
    folders = [(config.run_dir, "base.run_dir"), *((folder, "save.path") for _, folder in config.save.targets())]
    if config.eval is not None and config.eval.output_video_path is not None:
        folders.append((config.eval.output_video_path, "eval.output_video_path"))
    return folders


def versions() -> dict[str, str]:
    """What the figures of a run depend on."""
    found = {"python": platform.python_version()}
    found |= {package: known for package in PACKAGES if (known := _version(package)) is not None}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


@cache  # it is asked for several times in a run, and looked up in files
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
