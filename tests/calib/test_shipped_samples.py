"""The prompts and first frames that ship are what their pages say, and the script still makes the pictures."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llmc.calib.samples import read_samples

ROOT = Path(__file__).parents[2]
PROMPTS, SCENES = ROOT / "assets" / "prompts", ROOT / "assets" / "scenes"


def is_chinese(text: str) -> bool:
    return any("\u4e00" <= letter <= "\u9fff" for letter in text)


@pytest.mark.parametrize(("folder", "least"), [("calib", 48), ("eval", 16)])
def test_prompts_are_many_all_different_and_in_two_languages(folder: str, least: int) -> None:
    samples = read_samples(PROMPTS / folder, needs_image=False)
    prompts = {sample.prompt for sample in samples}
    assert len(prompts) == len(samples) >= least
    assert 0.25 < sum(map(is_chinese, prompts)) / len(prompts) < 0.5
    assert all(is_chinese(sample.prompt) == is_chinese(sample.negative_prompt) for sample in samples)


def test_nothing_is_judged_on_what_was_calibrated_on() -> None:
    for root, image in ((PROMPTS, False), (SCENES, True)):
        calib, judged = (read_samples(root / folder, image) for folder in ("calib", "eval"))
        assert not {sample.prompt for sample in calib} & {sample.prompt for sample in judged}
        if image:
            assert not {sample.image.name for sample in calib} & {sample.image.name for sample in judged}


@pytest.mark.parametrize("first", [6, 12])
def test_the_first_few_prompts_are_a_mix_too(first: int) -> None:
    prompts = [sample.prompt for sample in read_samples(PROMPTS / "calib", needs_image=False, limit=first)]
    assert 0 < sum(map(is_chinese, prompts)) < first


@pytest.mark.parametrize("folder", ["calib", "eval"])
def test_scenes_have_first_and_last_frames_and_prompts_in_both_languages(folder: str) -> None:
    samples = read_samples(SCENES / folder, needs_image=True, needs_last_image=True)
    for sample in samples:
        for picture in (sample.image, sample.last_image):
            with Image.open(picture) as opened:
                assert opened.size == (832, 480) and opened.format == "JPEG"
    half = len(samples) // 2
    assert len({sample.image for sample in samples[:half]}) == half  # each scene once before any comes twice
    assert sum(is_chinese(sample.prompt) for sample in samples) == half


def test_all_pictures_are_named_and_together_small() -> None:
    named = set()
    for folder in ("calib", "eval"):
        for sample in read_samples(SCENES / folder, needs_image=True, needs_last_image=True):
            named |= {sample.image, sample.last_image}
    there = set(SCENES.glob("*/*.jpg"))
    assert there == named and sum(path.stat().st_size for path in there) < 8 * 10**6


@pytest.mark.parametrize(
    "name", ["paper_boat", *(pytest.param(name, marks=pytest.mark.slow) for name in ("fjord_dusk", "room_night"))]
)
def test_the_script_makes_the_pictures_that_ship(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "scripts/render_scenes.py", name, "--to", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=True)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.glob("*/*.jpg"))
    assert [path.name for path in made] == [f"{name}_first.jpg", f"{name}_last.jpg"]
    for path in made:
        ours, shipped = (np.asarray(Image.open(root / path)).astype(float) for root in (tmp_path, SCENES))
        assert abs(ours - shipped).mean() < 1  # another machine may round otherwise
