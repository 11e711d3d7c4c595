"""Where relative inputs are looked for."""

from pathlib import Path

import pytest

from llmc.config.paths import config_file, resolve_input
from llmc.shipped import shipped


def test_the_current_folder_comes_first_then_scripts_then_the_file_then_what_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    beside = tmp_path / "beside"
    (beside / "data").mkdir(parents=True)
    assert resolve_input(Path("data"), [beside]) == beside / "data"
    assert resolve_input(Path("../configs"), [beside]) == shipped() / "configs"
    assert resolve_input(Path("configs"), [beside]) == shipped() / "configs"
    (beside / "configs").mkdir()
    assert resolve_input(Path("configs"), [beside]) == beside / "configs"
    (tmp_path / "data").mkdir()
    assert resolve_input(Path("data"), [beside]) == tmp_path / "data"


def test_what_is_nowhere_stays_as_written(tmp_path: Path) -> None:
    assert resolve_input(Path("nowhere/at/all"), [tmp_path]) == Path("nowhere/at/all")
    assert resolve_input(tmp_path / "gone") == tmp_path / "gone"


def test_a_configuration_that_ships_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    inside = Path("configs/targets/lightx2v.yaml")
    assert config_file(inside) == shipped() / inside
    inside.parent.mkdir(parents=True)
    inside.touch()
    assert config_file(inside) == inside
    assert config_file(Path("configs/targets")) == Path("configs/targets")
