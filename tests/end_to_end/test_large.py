"""Networks larger than what may be held of them: what a run takes does not grow with their depth."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.large import measured, size_of, write_config
from benchmarks.large_model import save_large_model


def peak(folder: Path, blocks: int, recipe: str) -> float:
    """The anonymous memory of a run at its highest point, in blocks."""
    save_large_model(folder / "model", dim=512, ffn=1408, blocks=blocks)
    save_large_model(folder / "small" / "model", dim=128, ffn=128, blocks=2)
    taken = measured(write_config(folder, recipe), write_config(folder / "small", recipe))
    return taken.anonymous / size_of(folder / "model", "blocks.0.")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["rtn", "gptq"])
def test_a_deeper_network_takes_no_more_memory(recipe: str, tmp_path: Path) -> None:
    few, many = (peak(tmp_path / str(blocks), blocks, recipe) for blocks in (3, 12))
    print(f"{few:.2f} and {many:.2f} blocks")
    assert many - few < 2  # of nine more
