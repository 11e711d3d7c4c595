"""A recording leaves the pipeline once nothing more is wanted of it, and not before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchHeunDiscreteScheduler

from llmc.calib.budget import ChosenCalls
from llmc.calib.early_end import left_when_seen
from llmc.calib.group import Group
from llmc.calib.record import Watch, record_calls
from llmc.calib.store import CallStore
from llmc.engine.calibrate import until_seen
from llmc.engine.network import prepare
from llmc.models.base import ModelAdapter, adapters
from llmc.models.loaded import LoadedModel
from llmc.models.samples import Sample, Sampling, Video
from llmc.numerics.spec import LayerSpec, TensorSpec
from llmc.policy.rules import Policy
from tests.tiny_pipelines import TINY

W8A16 = LayerSpec(weight=TensorSpec(format="int8", granularity="per_channel"))
SAMPLE = Sample(prompt="a red circle moving left")


def loaded(name: str, folder: Path) -> tuple[ModelAdapter, Any, Sampling]:
    save, sampling = TINY[name]
    save(folder)
    adapter = adapters()[name]()
    return adapter, adapter.load(folder, "auto", "cpu"), sampling


@pytest.fixture
def experts(tmp_path: Path) -> tuple[ModelAdapter, Any, Sampling]:
    return loaded("Wan2T2V", tmp_path)


def until_called(
    adapter: ModelAdapter, pipeline: Any, how: Sampling, parts: Sequence[str], groups: Mapping[str, Sequence[Group]]
) -> Callable[[int], AbstractContextManager[None]]:
    """What leaves the run of the sample once every call of these parts was made."""
    counts = adapter.call_counts(pipeline, how)
    chosen = ChosenCalls({part: {0: range(counts[part])} for part in parts if part in counts})
    return until_seen(adapter.parts(pipeline), chosen, groups)


def run(adapter: ModelAdapter, pipeline: Any, how: Sampling, until: Any) -> tuple[list[Video], Counter[str]]:
    """The videos, and how many calls of each network came to their end."""
    ended: Counter[str] = Counter()
    parts = adapter.parts(pipeline)
    for part in parts:
        part.module.register_forward_hook(lambda *_, name=part.name: ended.update([name]))
    return record_calls(LoadedModel(adapter, pipeline), parts, [(0, SAMPLE, how)], {}, watch=Watch(until=until)), ended


def test_an_expert_of_which_nothing_is_wanted_does_not_run(experts: tuple[ModelAdapter, Any, Sampling]) -> None:
    adapter, pipeline, how = experts
    counts = adapter.call_counts(pipeline, how)
    assert min(counts.values()) > 0
    videos, ended = run(adapter, pipeline, how, until_called(adapter, pipeline, how, ["transformer"], {}))
    # of the last call nothing was to be seen but that it came
    assert not videos and ended == {"transformer": counts["transformer"] - 1}


def test_what_only_watches_encoders_is_left_before_the_first_step(experts: tuple[ModelAdapter, Any, Sampling]) -> None:
    adapter, pipeline, how = experts
    prompts = []
    pipeline.text_encoder.register_forward_hook(lambda *_: prompts.append(1))
    videos, ended = run(adapter, pipeline, how, until_called(adapter, pipeline, how, ["text_encoder"], {}))
    assert not videos and not ended and len(prompts) == len(adapter.branches_of(how))


def test_the_last_call_runs_as_far_as_its_last_group(experts: tuple[ModelAdapter, Any, Sampling]) -> None:
    adapter, pipeline, how = experts
    network = prepare(adapter.parts(pipeline)[1], Policy(W8A16), ())
    blocks: Counter[str] = Counter()
    for block in network.blocks:
        block.module.register_forward_pre_hook(lambda *_, name=block.name: blocks.update([name]))
    groups = {network.part.name: network.blocks[0].groups}
    videos, _ = run(
        adapter, pipeline, how, until_called(adapter, pipeline, how, ["transformer", "transformer_2"], groups)
    )
    counted = adapter.call_counts(pipeline, how)["transformer_2"]
    assert not videos and [blocks[block.name] for block in network.blocks[:2]] == [counted, counted - 1]


def test_a_last_call_that_skips_a_group_is_left_at_its_end(experts: tuple[ModelAdapter, Any, Sampling]) -> None:
    adapter, pipeline, how = experts
    elsewhere = prepare(adapter.parts(deepcopy(pipeline))[1], Policy(W8A16), ()).blocks[0].groups
    parts = ["transformer", "transformer_2"]
    videos, ended = run(adapter, pipeline, how, until_called(adapter, pipeline, how, parts, {parts[1]: elsewhere}))
    assert not videos and ended == adapter.call_counts(pipeline, how)


def test_fewer_calls_than_were_foretold_run_to_the_end(experts: tuple[ModelAdapter, Any, Sampling]) -> None:
    adapter, pipeline, how = experts
    counts = adapter.call_counts(pipeline, how)
    too_many = {name: count + 1 for name, count in counts.items()}
    videos, ended = run(adapter, pipeline, how, lambda _: left_when_seen(adapter.parts(pipeline), too_many, {}))
    assert len(videos) == 1 and ended == counts


def test_an_error_of_the_pipeline_is_not_taken_for_its_end(experts: tuple[ModelAdapter, Any, Sampling]) -> None:
    adapter, pipeline, how = experts

    def fails(*_: object) -> None:
        raise RuntimeError("out of memory")

    pipeline.transformer.register_forward_hook(fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        run(adapter, pipeline, how, until_called(adapter, pipeline, how, ["transformer"], {}))


@torch.no_grad()
def test_a_scheduler_that_looks_twice_at_each_step_is_not_left_half_way(tmp_path: Path) -> None:
    adapter, pipeline, how = loaded("SD3", tmp_path)
    pipeline.scheduler = FlowMatchHeunDiscreteScheduler()
    store = CallStore()
    part = adapter.parts(pipeline)[0]
    record_calls(LoadedModel(adapter, pipeline), [part], [(0, SAMPLE, how)], {part.name: store})
    assert adapter.call_counts(pipeline, how) == {part.name: len(store)}
    left = CallStore()
    until = until_called(adapter, pipeline, how, [part.name], {})
    assert not record_calls(
        LoadedModel(adapter, pipeline), [part], [(0, SAMPLE, how)], {part.name: left}, watch=Watch(until=until)
    )
    assert left.headers() == store.headers()
