"""A tiny HunyuanVideo pipeline, and what its transformer is called with."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from llmc.compat.modelslim.scripted.dump import CaptureMode, DumperManager
from llmc.compat.modelslim.scripted.files import safe_torch_load
from llmc.models.base import adapters
from llmc.models.samples import Sample, Sampling
from llmc.scripted import TimestepManager
from tests.tiny_pipelines import TINY

SAVE, SAMPLING = TINY["HunyuanVideo"]
Load = Callable[[], Any]


@pytest.fixture(scope="session")
def hunyuan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the pipeline."""
    folder = tmp_path_factory.mktemp("hunyuan") / "model"
    SAVE(folder)
    return folder


@pytest.fixture
def load(hunyuan: Path) -> Load:
    return lambda: adapters()["HunyuanVideo"]().load(hunyuan, "auto", "cpu")


@pytest.fixture(scope="session")
def dump(hunyuan: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[CaptureMode], Path]:
    """The file with the calls of two short videos."""

    @cache
    def made(capture_mode: CaptureMode) -> Path:
        pipeline = adapters()["HunyuanVideo"]().load(hunyuan, "auto", "cpu")
        dumper = DumperManager(pipeline.transformer, capture_mode=capture_mode)
        for number, prompt in enumerate(("a red circle moving left", "a green square moving right")):
            generate(pipeline, prompt, SAMPLING.model_copy(update={"seed": 7 + number}))
        file = tmp_path_factory.mktemp("dump") / "calib_data.pth"
        dumper.save(file)
        return file

    return made


@pytest.fixture
def dumped(dump: Callable[[CaptureMode], Path]) -> Callable[[CaptureMode], list[Any]]:
    """The calls of such a file, for the test's own use."""
    return lambda capture_mode: safe_torch_load(dump(capture_mode))


def generate(pipeline: Any, prompt: str, sampling: Sampling) -> None:
    """A video, whose steps TimestepManager is told."""
    TimestepManager.set_timestep_idx(0)
    sample = Sample(prompt=prompt)
    adapters()["HunyuanVideo"]().generate(pipeline, sample, sampling, TimestepManager.set_timestep_idx)
