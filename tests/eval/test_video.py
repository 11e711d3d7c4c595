import pytest
import torch
from PIL import Image

from llmc.errors import LlmcError
from llmc.eval.video import GAIN, difference, read_video, write_preview, write_video


@pytest.mark.parametrize("size", [(64, 64), (480, 832), (48, 80)], ids=str)
def test_a_video_keeps_its_size_and_looks(clip, tmp_path, size):
    frames = clip(3, *size)
    found = read_video(write_video(tmp_path / "clip.mp4", frames))
    assert found.shape == frames.shape and found.dtype == torch.uint8
    assert (found.double() - frames.double()).abs().mean() < 3


def test_an_odd_size_gets_its_last_row_and_column_twice(clip, tmp_path):
    frames = clip(3, 33, 47)
    found = read_video(write_video(tmp_path / "clip.mp4", frames))
    assert found.shape == (3, 34, 48, 3)
    assert (found[:, :33, :47].double() - frames.double()).abs().mean() < 4


def test_grey_survives_the_colour_conversion(tmp_path):
    grey = torch.full((2, 32, 32, 3), 128, dtype=torch.uint8)
    found = read_video(write_video(tmp_path / "grey.mp4", grey))
    assert (found.int() - 128).abs().max() <= 1


def test_an_image_is_a_lossless_png(clip, tmp_path):
    path = write_video(tmp_path / "image.mp4", clip(1, 33, 47))
    assert path.name == "image.png"
    assert torch.equal(read_video(path), clip(1, 33, 47))


def test_only_whole_files_are_left(clip, tmp_path):
    write_video(tmp_path / "new" / "clip.mp4", clip(3))
    with pytest.raises(LlmcError):
        write_video(tmp_path / "broken.mp4", clip(3).float())
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["clip.mp4"]


def test_a_file_that_is_no_video_is_an_error_that_says_so(tmp_path):
    (tmp_path / "clip.mp4").write_text("no video")
    with pytest.raises(LlmcError, match="Invalid data"):
        read_video(tmp_path / "clip.mp4")


def test_the_difference_is_amplified_and_saturates():
    one, other = torch.tensor([[[[10, 10, 10]]]]).byte(), torch.tensor([[[[12, 7, 255]]]]).byte()
    assert difference(one, other).flatten().tolist() == [2 * GAIN, 3 * GAIN, 255]


@pytest.mark.parametrize("size", [(64, 64), (480, 832)], ids=str)
@pytest.mark.parametrize("frames", [1, 9])
def test_the_preview_has_three_rows_of_a_few_frames(clip, tmp_path, size, frames):
    path = write_preview(tmp_path / "preview.png", clip(frames, *size), clip(frames, *size, noise=5))
    with Image.open(path) as picture:
        width, height = picture.size
    assert width == 8 + min(frames, 5) * 264
    assert height == 3 * (30 + round(size[0] * 256 / size[1])) + 8
