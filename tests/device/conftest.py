"""Devices that are not the CPU: a pretended one everywhere, and a GPU with `-m gpu`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from llmc.algorithms.base import Algorithm
from llmc.calib.record import record_calls
from llmc.calib.samples import read_samples
from llmc.calib.store import CallStore
from llmc.engine.network import Network, prepare
from llmc.models.base import ModelAdapter
from llmc.models.loaded import LoadedModel
from llmc.models.samples import Sample, Sampling
from llmc.models.wan import WanI2V
from llmc.numerics.spec import LayerSpec
from llmc.policy.rules import Policy
from tests.device.pretended import COMPILERS, Pretended, compiler
from tests.device.pretended import pretended as load
from tests.export.tiny import SAMPLING, save_tiny


@pytest.fixture
def pretended() -> Iterator[Pretended]:
    """The pretended device, which has counted nothing yet."""
    if compiler() is None:
        pytest.skip(f"the pretended device is compiled, and none of {', '.join(COMPILERS)} is on PATH")
    device = load()
    with device.found():
        device.forget()
        yield device


@pytest.fixture(params=["npu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "npu":
        loaded: Pretended = request.getfixturevalue("pretended")
        return loaded.device
    return torch.device(request.param)


@dataclass(frozen=True)
class Tiny:
    """A tiny pipeline on disk, and how it is run."""

    adapter: ModelAdapter
    source: Path
    planned: list[tuple[int, Sample, Sampling]]

    def load(
        self, device: torch.device, grids: LayerSpec, recipe: Sequence[Algorithm] = (), side: int = SAMPLING.height
    ) -> tuple[Any, Network, CallStore]:
        """The pipeline on the device, its transformer made ready, and the calls of a float video with such sides."""
        size = {"height": side, "width": side}
        planned = [(number, sample, how.model_copy(update=size)) for number, sample, how in self.planned]
        pipeline = self.adapter.load(self.source, "auto", str(device))
        (part,) = self.adapter.parts(pipeline)
        store = CallStore()
        record_calls(LoadedModel(self.adapter, pipeline), [part], planned, {part.name: store}, keep_outputs=True)
        return pipeline, prepare(part, Policy(grids), (), recipe), store


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = save_tiny(tmp_path_factory.mktemp("tiny"))
    samples = read_samples(folder / "samples", needs_image=True)
    return Tiny(WanI2V(), folder / "model", [(0, samples[0], SAMPLING)])
