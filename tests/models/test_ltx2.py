"""LTX-2 with all of its guidances, three calls a step, of which the last skips some linears; and an older network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llmc.calib.budget import ChosenCalls
from llmc.calib.observation import Observation
from llmc.calib.record import Watch, record_calls
from llmc.calib.store import CallStore
from llmc.calib.stream import BlockStream, Observing
from llmc.engine.calibrate import until_seen
from llmc.engine.network import prepare
from llmc.models.loaded import LoadedModel
from llmc.models.ltx2 import LTX2
from llmc.models.samples import Sample
from llmc.numerics.spec import LayerSpec, TensorSpec
from llmc.policy.rules import Policy
from tests.tiny_pipelines.ltx2 import PIPELINES, save_ltx2

SAMPLE, SAMPLING = Sample(prompt="a red circle moving left", negative_prompt="blurry"), PIPELINES["LTX2"][1]
ROWS = frozenset({"rows"})
ALL = LTX2(stg_scale=1.0, stg_blocks=(1,), modality_scale=3.0, audio_guidance_scale=7.0)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("ltx2")
    save_ltx2(folder)
    return ALL.load(folder, "auto", "cpu")


@torch.no_grad()
def test_each_guidance_is_a_call_and_blocks_stream_as_they_ran(pipeline: Any) -> None:
    (part,) = ALL.parts(pipeline)
    network = prepare(part, Policy(LayerSpec(weight=TensorSpec(format="int8", granularity="per_channel"))), ())
    store, counts = CallStore(), ALL.call_counts(pipeline, SAMPLING)
    observation = Observation(network.groups, ROWS, 6, 10**9)
    chosen = ChosenCalls({part: {0: range(count)} for part, count in counts.items()})
    until = until_seen([part], chosen, {part.name: network.groups})
    with observation.watching():
        videos = record_calls(
            LoadedModel(ALL, pipeline), [part], [(0, SAMPLE, SAMPLING)], {part.name: store}, watch=Watch(until=until)
        )
    observation.attach()
    wanted = [group.stats["rows"] for group in network.groups]
    assert videos == [], "it is left after the last call, although that did not read every group"
    branches = ("uncond+cond", "perturbed", "isolated")
    assert ALL.branches_of(SAMPLING) == branches
    found = [(call.step, call.branch) for call in store.headers()]
    assert found == [(step, branch) for step in (0, 1) for branch in branches]
    list(BlockStream(part, network.blocks, store, Observing(ROWS, 10**9)))
    for group, rows in zip(network.groups, wanted, strict=True):
        assert torch.equal(group.stats["rows"], rows), group.name


def test_a_network_without_gates_is_one_too(tmp_path: Path) -> None:
    save_ltx2(tmp_path, newer=False)
    adapter = LTX2()
    older = adapter.load(tmp_path, "auto", "cpu")
    video = adapter.generate(older, SAMPLE, SAMPLING)
    assert video.is_finite and video.frames.shape[1:] == (32, 32, 3)
    assert not any("to_gate_logits" in name for name in older.transformer.state_dict())
