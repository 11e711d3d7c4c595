"""Samples of ours, and those of msModelSlim: a prompt each, and images that lie beside."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from llmc.calib.samples import read_samples
from llmc.errors import CalibrationError

LINES = '{"text": "a fox in the snow", "image": "fox.png"}\n\n{"prompt": "a red car", "image": "car.png"}\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("fox.png", "car.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("of_folder", [True, False])
def test_lines_of_msmodelslim_are_samples(folder: Path, of_folder: bool) -> None:
    (folder / "index.jsonl").write_text(LINES)
    found = read_samples(folder if of_folder else folder / "index.jsonl", needs_image=True)
    assert [(sample.prompt, sample.image) for sample in found] == [
        ("a fox in the snow", folder / "fox.png"), ("a red car", folder / "car.png")
    ]  # fmt: skip
    assert [sample.prompt for sample in read_samples(folder, needs_image=True, limit=1)] == ["a fox in the snow"]


def test_its_list_is_one_too_and_ours_comes_first(folder: Path) -> None:
    (folder / "index.json").write_text('[{"text": "theirs"}]')
    assert read_samples(folder, needs_image=False)[0].prompt == "theirs"
    (folder / "samples.json").write_text('[{"prompt": "ours"}]')
    assert read_samples(folder, needs_image=False)[0].prompt == "ours"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "a fox", "image": "wolf.png"}', "index.jsonl names wolf.png, which is not there"),
        ('{"text": "a fox"}', r"index.jsonl has no image \('a fox'\)"),
        ('{"text": "a fox", "audio": "fox.wav"}', "is not a list of samples"),
        ('{"text": "a fox"', "is not a list of samples"),
        ('["a fox"]', "is not a list of samples"),
        ('{"text": "a fox", "image": "../fox.png"}', "names ../fox.png, which does not lie in its folder"),
        ('{"text": "a fox", "image": "/etc/passwd"}', "names /etc/passwd, which does not lie in its folder"),
        ('{"text": "a fox", "image": "a/../../fox.png"}', "does not lie in its folder"),
        ('{"text": "a fox", "image": ""}', "is no file"),
        ('{"text": "a fox", "image": "index.jsonl"}', "is no picture that can be read"),
        ('{"text": "a\\u001b[31m fox", "image": null}', "index.jsonl has no image"),
    ],
)
def test_a_line_that_is_no_sample_is_refused(folder: Path, line: str, said: str) -> None:
    (folder / "index.jsonl").write_text(line + "\n")
    with pytest.raises(CalibrationError, match=said):
        read_samples(folder, needs_image=True)


def test_a_picture_may_lie_below_or_behind_a_link_and_be_named_in_full(folder: Path, tmp_path: Path) -> None:
    (folder / "set").mkdir()
    (folder / "set" / "pictures").symlink_to(tmp_path)
    names = ["pictures/fox.png", "pictures/../pictures/fox.png", str(folder / "set" / "pictures" / "fox.png")]
    (folder / "set" / "index.jsonl").write_text("".join(f'{{"text": "a fox", "image": "{name}"}}\n' for name in names))
    found = [sample.image for sample in read_samples(folder / "set", needs_image=True)]
    assert found == [folder / "set" / "pictures" / "fox.png"] * 3


def test_only_the_samples_that_are_used_must_be_there(folder: Path) -> None:
    (folder / "index.jsonl").write_text(
        '{"text": "a fox", "image": "fox.png"}\n{"text": "a wolf", "image": "gone.png"}\n'
    )
    assert len(read_samples(folder, needs_image=True, limit=1)) == 1
    with pytest.raises(CalibrationError, match="which is not there"):
        read_samples(folder, needs_image=True)
