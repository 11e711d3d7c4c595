"""Lent networks of every family: what they are, what they give, and what is known without opening the pipeline."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llmc.calib.store import map_tree
from llmc.config.schema import ModelConfig
from llmc.engine.lending import Lending, lent_parts
from llmc.engine.source import pipeline_around, skeleton
from llmc.layers.lent import Lent
from llmc.models.base import adapters, pipeline_index
from llmc.models.index import shift_of
from llmc.models.parts import Part
from tests.contracts.conftest import Family
from tests.slices import by_default

CPU = torch.device("cpu")


def model_of(family: Family, torch_dtype: str = "auto") -> ModelConfig:
    return ModelConfig.model_validate(
        {"type": family.adapter.name, "path": str(family.source), "torch_dtype": torch_dtype}  # type: ignore[attr-defined]
    )


def lent(family: Family, torch_dtype: str = "auto", resident: int | None = 0) -> list[Part]:
    model = model_of(family, torch_dtype)
    return lent_parts(model, skeleton(model, ()), Lending(CPU, resident))


@pytest.mark.parametrize("torch_dtype", ["auto", "bfloat16"])
def test_a_lent_network_is_the_one_that_the_pipeline_has(family: Family, torch_dtype: str) -> None:
    pipeline = family.pipeline() if torch_dtype == "auto" else family.adapter.load(family.source, torch_dtype, "cpu")
    parts = family.adapter.parts(pipeline)
    for own, part in zip(lent(family, torch_dtype), parts, strict=True):
        assert (own.name, [name for name, _ in own.blocks]) == (part.name, [name for name, _ in part.blocks])
        ours, theirs = own.module.state_dict(), part.module.state_dict()
        assert ours.keys() == theirs.keys()
        assert [n for n in ours if ours[n].dtype != theirs[n].dtype or not ours[n].equal(theirs[n])] == []
        for (name, buffer), (same, wanted) in zip(own.module.named_buffers(), part.module.named_buffers(), strict=True):
            assert name == same and buffer.equal(wanted)
        weights = dict(own.module.named_parameters())
        for block, module in own.blocks:
            names = [linear for group in own.groups(module) for linear in group.linears]
            assert names and all(isinstance(weights[f"{block}.{linear}.weight"], Lent) for linear in names)


@torch.no_grad()
def test_a_lent_network_gives_what_the_float_one_gave(family: Family) -> None:
    for own in lent(family):
        calls = family.float_calls[own.name]
        for call in calls.calls(CPU):
            given = own.module(*call.args, **call.kwargs)
            for found, wanted in zip(tensors(given), tensors(call.output), strict=True):
                # to the bit only where tensors lie alike in memory
                torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", by_default(["WanI2V"], adapters()), indirect=True)
def test_a_video_is_the_same_however_many_blocks_are_resident(family: Family) -> None:
    _, sample, sampling = family.planned[0]
    for resident in (0, 1):
        pipeline = pipeline_around(lent(family, resident=resident), model_of(family), CPU)
        video = family.adapter.generate(pipeline, sample, sampling)
        assert torch.equal(video.latents, family.float_run.video.latents), resident
        assert torch.equal(video.frames, family.float_run.video.frames), resident


def tensors(output: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    map_tree(output, found.append, torch.Tensor)
    return found


def test_the_schedule_is_told_without_the_pipeline(family: Family) -> None:
    pipeline = family.pipeline()
    found = pipeline_index(family.source).schedule()
    assert found.pop("boundary", None) == pipeline.config.get("boundary_ratio")
    assert found == {"shift": shift_of(pipeline.scheduler.config)}
