"""Which files are read, and the names of those that each process has for itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmc.errors import CalibrationError
from llmc.scripted import get_rank, get_rank_suffix_file, safe_torch_load


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "calib.pth"
    torch.save([(torch.arange(3), None, "text", 1.5)], path)
    path.chmod(0o640)
    return path


def test_tensors_and_plain_values_are_read(file: Path) -> None:
    ((tensor, *others),) = safe_torch_load(file, map_location="cpu")
    assert tensor.tolist() == [0, 1, 2] and others == [None, "text", 1.5]


@pytest.mark.parametrize("mode", [0o660, 0o602, 0o777])
def test_what_others_may_have_written_is_not_read(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(CalibrationError, match=f"has the mode {mode:#o}.* run `chmod 640"):
        safe_torch_load(file)


def test_what_others_may_only_read_is_read(file: Path) -> None:
    file.chmod(0o644)
    assert len(safe_torch_load(file)) == 1


def test_links_folders_and_what_is_not_there_are_refused(file: Path, tmp_path: Path) -> None:
    (tmp_path / "link.pth").symlink_to(file)
    for name, why in (("link.pth", "is a symbolic link"), (".", "is not a regular file"), ("other.pth", "not there")):
        with pytest.raises(CalibrationError, match=why):
            safe_torch_load(tmp_path / name)


@pytest.mark.parametrize("kept", [0, 10, -30])
def test_a_file_that_was_cut_off_is_refused(file: Path, kept: int) -> None:
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(CalibrationError, match="is damaged, or was on a device"):
        safe_torch_load(file)


def test_code_in_a_file_is_not_run(file: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), file)
    with pytest.raises(CalibrationError, match="holds more than tensors"):
        safe_torch_load(file)


def test_each_process_has_its_own_name_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    assert get_rank() == -1
    assert get_rank_suffix_file("calib_data", "pth", is_distributed=False, rank=-1) == "calib_data.pth"
    monkeypatch.setenv("RANK", "3")
    rank = get_rank()
    assert get_rank_suffix_file("calib_data", "pth", is_distributed=rank >= 0, rank=rank) == "calib_data_3.pth"
