"""The folder that a script saves to: a later save replaces an earlier one, and touches nothing of others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmc.compat.modelslim.scripted.folder import check_folder, clear_folder, forget_manifest
from llmc.errors import ExportError
from llmc.scripted import (
    SaveProcessorConfig,
    SessionConfig,
    W8A8DynamicProcessorConfig,
    W8A8TimeStepProcessorConfig,
    quant_model,
)
from llmc.verify.run import verify
from tests.compat.modelslim.scripted.conftest import Load


def test_a_second_save_takes_the_place_of_the_first(
    hunyuan: Path, load: Load, dumped: Callable[..., list[Any]], tmp_path: Path
) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "notes.txt").write_text("of my own", encoding="utf-8")
    save = SaveProcessorConfig(output_path=tmp_path / "export")
    by_step = {"w8a8_timestep": W8A8TimeStepProcessorConfig(timestep_sep=1), "save": save}
    quant_model(load().transformer, SessionConfig(processor_cfg_map=by_step, calib_data=dumped("timestep")))
    assert (save.output_path / "timestep_policy.json").exists()
    dynamic = {"w8a8_dynamic": W8A8DynamicProcessorConfig(), "save": save}
    quant_model(load().transformer, SessionConfig(processor_cfg_map=dynamic))
    report = verify(save.output_path, float_model=hunyuan)
    assert [verdict for verdict in report.verdicts if verdict.status == "fail"] == []
    assert sorted(path.name for path in save.output_path.iterdir()) == [
        "README.md", "llmc_manifest.json", "notes.txt", "quant_model_description_w8a8_dynamic.json",
        "quant_model_weight_w8a8_dynamic.safetensors",
    ]  # fmt: skip


def test_weights_that_would_stay_beside_are_refused_before_anything_runs(load: Load, tmp_path: Path) -> None:
    (tmp_path / "other.safetensors").touch()
    dynamic = {"w8a8_dynamic": W8A8DynamicProcessorConfig(), "save": SaveProcessorConfig(output_path=tmp_path)}
    model = load().transformer
    with pytest.raises(ExportError, match=r"output_path is .* holds other\.safetensors too, .* name another"):
        quant_model(model, SessionConfig(processor_cfg_map=dynamic))
    assert "QuantLinear" not in str(model)
    check_folder(tmp_path, "output_path", "other.safetensors")


@pytest.mark.parametrize(
    "rank, stay",
    [
        ("0", ["quant_model_weight_w8a8_1.safetensors"]),
        ("1", ["README.md", "quant_model_weight_w8a8.safetensors", "quant_model_weight_w8a8_0.safetensors",
               "quant_model_weight_w8a8_7.safetensors"]),
    ],
)  # fmt: skip
def test_of_several_processes_each_clears_its_own(
    rank: str, stay: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for end in ("", "_0", "_1", "_7"):
        (tmp_path / f"quant_model_weight_w8a8{end}.safetensors").touch()
    new = f"quant_model_weight_w8a8_dynamic_{rank}.safetensors"
    for name in ("README.md", new, "timestep_policy.json", *(["llmc_manifest.json"] if rank == "0" else [])):
        (tmp_path / name).touch()
    check_folder(tmp_path, "output_path")
    forget_manifest(tmp_path)
    clear_folder(tmp_path, {new})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*stay, new])
