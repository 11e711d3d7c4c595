"""What lets a run that was cut off go on: the journal of its calibration, under a name of all that it depends on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from llmc.calib.journal import Journal
from llmc.calib.recording import fingerprint
from llmc.config.schema import Config
from llmc.models.base import Sample
from llmc.plugin import Plugin, subclasses
from llmc.steps.folder import RunFolder, versions
from llmc.steps.source import sources


def calibration_journal(config: Config, samples: Sequence[Sample], device: torch.device, folder: RunFolder) -> Journal:
    """Where finished blocks of this very calibration are kept; how it will be judged does not matter to it."""
    images = [image for sample in samples for image in (sample.image, sample.last_image) if image]
    loras = [lora.path for lora in config.model.lora]
    key = fingerprint(
        config.fingerprint("eval"), [sample.model_dump(mode="json") for sample in samples], images,
        sources(config.model), loras, device.type, versions(), code_files(),
    )  # fmt: skip
    return Journal(folder.path / f"calibration-{key}", folder.writes)


def code_files() -> list[Path]:
    """Our own code, and that of all plug-ins: a method may be somebody's who still works on it."""
    ours = Path(__file__).parents[1].rglob("*.py")
    theirs = (getattr(sys.modules[plugin.__module__], "__file__", None) for plugin in subclasses(Plugin))
    return sorted({*ours, *(Path(file) for file in theirs if file)})
