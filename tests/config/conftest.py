"""A good configuration to spoil."""

from collections.abc import Callable
from pathlib import Path

import pytest

GOOD = Path(__file__).parents[2] / "configs/quantization/video_gen/wan_i2v_tiny/smoothquant_w_a.yaml"


@pytest.fixture
def good() -> str:
    return GOOD.read_text(encoding="utf-8")


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str | bytes], Path]:
    """Writes a configuration and returns its path."""

    def written(text: str | bytes) -> Path:
        path = tmp_path / "config.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return written
