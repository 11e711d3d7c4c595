"""Folders that are no pipeline of diffusers are told by what they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmc.errors import AdapterError
from llmc.models.base import pipeline_index


def test_a_modular_pipeline_is_told_as_one(tmp_path: Path) -> None:
    entries = {"_class_name": "MiniMaxH3ModularPipeline", "_blocks_class_name": "MiniMaxH3Blocks"}
    (tmp_path / "modular_model_index.json").write_text(json.dumps(entries), encoding="utf-8")
    with pytest.raises(AdapterError, match=r"modular_model_index\.json, which diffusers puts .* no adapter runs those"):
        pipeline_index(tmp_path)


def test_beside_a_whole_pipeline_it_is_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "modular_model_index.json").write_text("{}", encoding="utf-8")
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "ZImagePipeline"}), encoding="utf-8")
    assert pipeline_index(tmp_path).class_name == "ZImagePipeline"
