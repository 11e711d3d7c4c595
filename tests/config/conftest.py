"""A good configuration to spoil."""

from collections.abc import Callable
from pathlib import Path

import pytest

from llmc.checks.configuration import check_config
from llmc.compat.load import load_config
from llmc.config.schema import Config
from llmc.errors import ConfigError

Write = Callable[[str | bytes], Path]
Load = Callable[..., Config]
GOOD = Path(__file__).parent / "good.yaml"


@pytest.fixture
def good() -> str:
    return GOOD.read_text(encoding="utf-8")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a configuration and returns its path."""

    def written(text: str | bytes) -> Path:
        path = tmp_path / "config.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return written


@pytest.fixture
def load(good: str, write: Write, tmp_path: Path) -> Load:
    """The good configuration with overrides, writing into the test's own folder."""
    return lambda *overrides: load_config(write(good), [f"save.path={tmp_path}/out", *overrides])


def message(config: Config) -> str:
    """Why it is refused before a model is loaded."""
    with pytest.raises(ConfigError) as caught:
        check_config(config)
    return str(caught.value)
