"""What most exporters are tried on."""

from pathlib import Path

import pytest

from tests.export.tiny import save_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pipeline and a sample."""
    return save_tiny(tmp_path_factory.mktemp("wan"))
