"""What speaks against a run is said before it starts."""

from pathlib import Path

import pytest
from PIL import Image

from llmc.checks.scarce import is_even, worries
from tests.config.conftest import Load

ASSETS = Path(__file__).parents[2] / "assets"
OF_USE = ("calib.target_height=480", "calib.target_width=832")


def said(load: Load, *overrides: str) -> str:
    return "\n".join(worries(load(*overrides)))


def test_drawings_are_said_to_be_no_calibration_of_a_model_that_makes_large_videos(load: Load) -> None:
    assert "12 of 12 calibration pictures are even drawings" in said(load, *OF_USE)
    assert "drawings" not in said(load)  # the embedded model has seen nothing else


def test_rendered_scenes_are_no_drawings(load: Load) -> None:
    assert said(load, *OF_USE, f"calib.path={ASSETS / 'scenes' / 'calib'}") == ""


def test_fewer_calls_than_steps_are_told(load: Load) -> None:
    assert "calib.max_calls is 3, and the schedule has 20 steps" in said(
        load, "calib.max_calls=3", "calib.sample_steps=20"
    )
    assert said(load, "calib.max_calls=20", "calib.sample_steps=20") == ""


def test_a_metric_that_will_have_no_figure_is_told(load: Load, tmp_path: Path) -> None:
    metric = f"[{{name: clip_score, model: {tmp_path}}}, psnr]"
    assert "clip_score" in said(load, f"eval.metrics={metric}")


@pytest.mark.parametrize("folder", ["wan_i2v", "wan_flf2v"])
def test_every_toy_is_even(folder: str) -> None:
    pictures = list((ASSETS / folder).glob("*/*.png"))
    assert pictures and all(map(is_even, pictures))


def test_no_scene_is_even() -> None:
    pictures = list((ASSETS / "scenes").glob("*/*.jpg"))
    assert pictures and not any(map(is_even, pictures))


def test_a_picture_of_one_pixel_is_even(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    assert not is_even(tmp_path / "dot.png")
