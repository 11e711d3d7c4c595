"""One tiny real pipeline of each family, loaded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from llmc.algorithms.base import Algorithm
from llmc.calib.record import record_calls
from llmc.calib.samples import read_samples
from llmc.calib.store import CallStore
from llmc.export.base import Exporter
from llmc.models.base import ModelAdapter, Sample, Sampling, adapters
from llmc.numerics.spec import LayerSpec, TensorSpec
from llmc.policy.rules import Policy
from llmc.steps.network import Network, prepare
from tests.tiny_pipelines import TINY, save_samples

W8A8 = LayerSpec(
    weight=TensorSpec(format="int8", granularity="per_channel"), act=TensorSpec(format="int8", granularity="per_token")
)


@dataclass
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
    def float_calls(self) -> dict[str, CallStore]:
        """The calls of each part, with their outputs, while the first video is made."""
        pipeline = self.pipeline()
        parts = self.adapter.parts(pipeline)
        stores = {part.name: CallStore() for part in parts}
        record_calls(self.adapter, pipeline, parts, self.planned[:1], stores, keep_outputs=True)
        return stores

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


@pytest.fixture(params=sorted(adapters()))
def family(request: pytest.FixtureRequest, make_family: Callable[[str], Family]) -> Family:
    return make_family(request.param)
