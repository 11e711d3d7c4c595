"""Nothing is written where it cannot be, or where something else lies."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llmc.checks.configuration import config_problems
from llmc.errors import ConfigError
from llmc.export.manifest import UNFINISHED
from llmc.lock import LOCK
from tests.config.conftest import Load, message


def test_a_folder_below_a_file_cannot_be_written(load: Load, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "save.save_path:" in message(load(f"save.save_path={tmp_path}/file/out"))
    assert "base.run_dir:" in message(load(f"base.run_dir={tmp_path}/file/run"))


def test_the_output_folder_may_hold_nothing_foreign(load: Load, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert config_problems(load("save.overwrite=False")) == []
    (out / "thesis.txt").write_text("years of work")
    assert "thesis.txt, which this configuration did not write" in message(load("save.overwrite=False"))
    assert config_problems(load("save.overwrite=True")) == []


def test_an_export_of_the_same_work_may_be_written_again(load: Load, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    fingerprint = load().fingerprint()
    save_file({"a": torch.zeros(1)}, out / "diffusion_pytorch_model.safetensors", {"fingerprint": fingerprint})
    assert config_problems(load("save.overwrite=False")) == []
    assert "did not write" in message(load("save.overwrite=False", "base.seed=1"))


def test_an_export_that_was_cut_off_may_be_gone_on_with_by_its_own_configuration_alone(
    load: Load, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / ".writing-0123abcd").mkdir(parents=True)
    (out / LOCK).write_text("")
    assert config_problems(load("save.overwrite=False")) == [], "that is hidden, and was left by one that was killed"
    (out / "model_index.json").write_text("{}")
    (out / UNFINISHED).write_text(load().fingerprint())
    assert config_problems(load("save.overwrite=False")) == []
    assert "model_index.json, which this configuration did not write" in message(
        load("save.overwrite=False", "base.seed=1")
    )


def test_a_name_that_no_file_system_takes_is_refused(load: Load, tmp_path: Path) -> None:
    assert "at most 255 bytes" in refused(load, f"save.save_path={'n' * 300}")
    assert "eval.output_video_path:" in message(load(f"eval.output_video_path={tmp_path}/config.yaml/videos"))


def refused(load: Load, override: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(override)
    return str(caught.value)


def test_the_float_model_is_never_written_over(load: Load) -> None:
    config = load()
    assert "or lies in it" in message(load(f"save.save_path={config.model.path}/transformer", "save.overwrite=True"))
    assert "the folder of the float model" in message(
        load(f"save.save_path={config.model.path}", "save.overwrite=True")
    )
