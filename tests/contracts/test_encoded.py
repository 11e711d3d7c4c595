"""Texts and pictures are encoded once in a run, and nothing else comes of it."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from llmc.models.base import adapters
from llmc.models.encoded import Encoded
from llmc.models.loaded import LoadedModel
from tests.contracts.conftest import Family
from tests.slices import by_default


def encoders_of(pipeline: object) -> dict[str, torch.nn.Module]:
    found = {name: getattr(pipeline, name, None) for name in ("text_encoder", "text_encoder_2", "image_encoder")}
    return {name: encoder for name, encoder in found.items() if encoder is not None}


@torch.no_grad()
@pytest.mark.parametrize("family", by_default(["WanI2V", "Wan2TI2V", "OpenSoraPlan"], adapters()), indirect=True)
def test_encoders_run_once_for_every_text_and_the_video_is_the_same(family: Family) -> None:
    pipeline, ran = family.pipeline(), Counter[str]()
    for name, encoder in encoders_of(pipeline).items():
        encoder.register_forward_pre_hook(lambda *_, name=name: ran.update([name]))
    methods = {name: getattr(pipeline, name, None) for name in ("encode_prompt", "encode_image")}
    model = LoadedModel(family.adapter, pipeline, encoded=Encoded())
    _, sample, sampling = family.planned[0]
    first = model.generate(sample, sampling)
    once = Counter(ran)
    assert once, "the encoders ran"
    again = model.generate(sample, sampling)
    assert ran == once
    for video in (first, again):
        assert torch.equal(video.latents, family.float_run.video.latents)
    assert {name: getattr(pipeline, name, None) for name in methods} == methods, "the pipeline is left as it was"
    model.generate(sample.model_copy(update={"prompt": "another one"}), sampling)
    assert ran != once
