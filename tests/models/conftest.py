"""A small release of Open-Sora-Plan to spoil."""

import shutil
from pathlib import Path

import pytest

from tests.tiny_pipelines.opensora import save_opensora_plan


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As it was written."""
    folder = tmp_path_factory.mktemp("release")
    save_opensora_plan(folder / "93x480p")
    return folder


@pytest.fixture
def release(saved: Path, tmp_path: Path) -> Path:
    """A copy of one's own: the folder of its network."""
    shutil.copytree(saved, tmp_path / "release")
    return tmp_path / "release" / "93x480p"
