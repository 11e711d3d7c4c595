"""Values in a folder: made once, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmc.calib.value_folder import Kept
from llmc.models.samples import Video


def test_a_value_is_made_once_and_comes_back_as_it_was(tmp_path: Path) -> None:
    kept, made = Kept(tmp_path / "judging"), []

    def make() -> dict[int, list[float]]:
        made.append(1)
        return {0: [0.1, 1 / 3], 3: [float("inf")]}

    assert not kept.has("replay.0")
    assert kept.made("replay.0", make) == kept.made("replay.0", make) == make()
    assert kept.has("replay.0") and len(made) == 2
    video = kept.made(
        "video.0", lambda: Video(torch.zeros(0, dtype=torch.uint8), torch.randn(3, 4, 5).permute(2, 0, 1))
    )
    assert not video.is_decoded and video.latents.shape == (5, 3, 4)
    kept.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_is_damaged_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept(tmp_path)
    kept.put("video.0", torch.ones(100))
    kept.path("video.0").write_bytes(kept.path("video.0").read_bytes()[:-3])
    assert torch.equal(kept.made("video.0", lambda: torch.zeros(3)), torch.zeros(3))
    assert f"{kept.path('video.0')} is damaged, and made again" in caplog.text


def test_what_cannot_be_kept_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a object is neither a dataclass nor a plain value"):
        Kept(tmp_path / "judging").put("video.0", [object()])
    assert list(tmp_path.iterdir()) == []
