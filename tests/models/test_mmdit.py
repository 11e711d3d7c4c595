"""Pipelines of FLUX.1's kind: components that a folder does without."""

from __future__ import annotations

from pathlib import Path

from llmc.models.base import adapters
from llmc.models.samples import Sample
from tests.tiny_pipelines import TINY


def test_a_pipeline_without_its_largest_encoder_is_loaded_and_run(tmp_path: Path) -> None:
    """SD3 can be run without T5, which is larger than its network."""
    save, sampling = TINY["SD3"]
    save(tmp_path / "whole")
    adapter = adapters()["SD3"]()
    pipeline = adapter.load(tmp_path / "whole", "auto", "cpu")
    pipeline.register_modules(text_encoder_3=None, tokenizer_3=None)
    pipeline.save_pretrained(tmp_path / "without")
    smaller = adapter.load(tmp_path / "without", "auto", "cpu")
    assert smaller.text_encoder_3 is None and "text_encoder_3" not in adapter.index(tmp_path / "without").components
    sample = Sample(prompt="a red circle moving left")
    whole, without = (adapter.generate(each, sample, sampling).latents for each in (pipeline, smaller))
    assert whole.equal(without)
