"""What lets a run that was cut off go on: what it had finished, under a name of all that this depends on."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from llmc import distributed
from llmc.calib.journal import Journal
from llmc.calib.recording import UNFINISHED, fingerprint
from llmc.calib.value_folder import Kept
from llmc.config.schema import Config
from llmc.engine.source import sources
from llmc.ledger.folder import RunFolder, versions
from llmc.models.loaded import LoadedModel
from llmc.models.samples import Sample
from llmc.plugin import Plugin, subclasses

CALIBRATION, JUDGING = "calibration-", "judging-"  # how the folders begin


def calibration_journal(config: Config, model: LoadedModel, folder: RunFolder) -> Journal:
    """Where finished blocks of this very calibration are kept; how it will be judged does not matter to it."""
    key = _key(config, config.fingerprint("eval"), config.calib_samples(model.adapter), model, folder.device)
    return Journal(folder.path / f"{CALIBRATION}{key}", folder.writes)


def judging_kept(config: Config, model: LoadedModel, folder: RunFolder) -> Kept:
    """Where is kept what was judged of it."""
    judged = config.eval.samples(model.adapter) if config.eval is not None else []
    key = _key(config, config.fingerprint(), [*config.calib_samples(model.adapter), *judged], model, folder.device)
    return Kept(folder.path / f"{JUDGING}{key}")


def forget(folder: RunFolder) -> None:
    """The run is over, and so is whatever another configuration began here; the float run stays, for the next one."""
    distributed.wait()
    for beginning in (f"{CALIBRATION}*", f"{JUDGING}*", f"float-*{UNFINISHED}") if folder.writes else ():
        for kept in folder.path.glob(beginning):
            shutil.rmtree(kept, ignore_errors=True)


def _key(config: Config, work: str, samples: Sequence[Sample], model: LoadedModel, device: torch.device) -> str:
    images: list[Path] = []
    for sample in samples:
        images += [image for image in (sample.image, sample.last_image) if image]
    loras = [lora.path for lora in config.model.lora]
    return fingerprint(
        work, [sample.model_dump(mode="json") for sample in samples], images,
        sources(config.model), model.weights, loras, device.type, versions(), code_files(),
    )  # fmt: skip


def code_files() -> list[Path]:
    """Our own code, and that of all plug-ins: a method may be somebody's who still works on it."""
    ours = Path(__file__).parents[1].rglob("*.py")
    theirs = (getattr(sys.modules[plugin.__module__], "__file__", None) for plugin in subclasses(Plugin))
    return sorted({*ours, *(Path(file) for file in theirs if file)})
