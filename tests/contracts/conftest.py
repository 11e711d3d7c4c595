"""One tiny real pipeline of each family, loaded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch

from llmc.algorithms.base import Algorithm
from llmc.calib.observation import Observation
from llmc.calib.record import record_calls
from llmc.calib.samples import read_samples
from llmc.calib.store import CallStore
from llmc.engine.network import Network, prepare
from llmc.export.base import Exporter
from llmc.models.base import ModelAdapter, adapters
from llmc.models.loaded import LoadedModel
from llmc.models.samples import Sample, Sampling, Video
from llmc.numerics.spec import LayerSpec, TensorSpec
from llmc.policy.rules import Policy
from tests.slices import FAMILIES, by_default
from tests.tiny_pipelines import TINY, save_samples

W8A8 = LayerSpec(
    weight=TensorSpec(format="int8", granularity="per_channel"), act=TensorSpec(format="int8", granularity="per_token")
)


@dataclass(frozen=True)
class FloatRun:
    """A video, the calls of each part with their outputs, and every row that each group of linears read."""

    video: Video
    calls: dict[str, CallStore]
    rows: list[torch.Tensor]


@dataclass(eq=False)
class Family:
    """A tiny pipeline, and how to run it; what is loaded and recorded of it once serves every test."""

    adapter: ModelAdapter
    source: Path
    planned: list[tuple[int, Sample, Sampling]]

    def load(
        self, exporters: tuple[Exporter, ...] = (), spec: LayerSpec = W8A8, recipe: Sequence[Algorithm] = ()
    ) -> tuple[Any, list[Network]]:
        pipeline = self.pipeline()
        return pipeline, [prepare(part, Policy(spec), exporters, recipe) for part in self.adapter.parts(pipeline)]

    def pipeline(self) -> Any:
        """As it was saved, and the caller's own."""
        return deepcopy(self._loaded)

    @cached_property
    def float_run(self) -> FloatRun:
        """What is known of the float model, while the first video is made."""
        pipeline, networks = self.load()
        stores = {network.part.name: CallStore() for network in networks}
        groups = [group for network in networks for group in network.groups]
        observation = Observation(groups, frozenset({"rows"}), 1, 10**9)
        with observation.watching():
            parts = [network.part for network in networks]
            (video,) = record_calls(
                LoadedModel(self.adapter, pipeline), parts, self.planned[:1], stores, keep_outputs=True
            )
        observation.attach()
        return FloatRun(video, stores, [group.stats["rows"] for group in groups])

    @property
    def float_calls(self) -> dict[str, CallStore]:
        return self.float_run.calls

    @cached_property
    def _loaded(self) -> Any:
        return self.adapter.load(self.source, "auto", "cpu")


@pytest.fixture(scope="session")
def make_family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Family]:
    made: dict[str, Family] = {}

    def make(name: str) -> Family:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            save, sampling = TINY[name]
            save(folder / "model")
            save_samples(folder / "samples", 2)
            adapter = adapters()[name]()
            samples = read_samples(folder / "samples", adapter.needs_image, needs_last_image=adapter.needs_last_image)
            made[name] = Family(adapter, folder / "model", [(i, sample, sampling) for i, sample in enumerate(samples)])
        return made[name]

    return make


@pytest.fixture(params=by_default(FAMILIES, sorted(adapters())))
def family(request: pytest.FixtureRequest, make_family: Callable[[str], Family]) -> Family:
    return make_family(request.param)
