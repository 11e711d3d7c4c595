"""Pictures that a model cannot be given are told apart by their files alone."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from llmc.models.pictures import FORMATS, picture_problem


def saved(path: Path, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Path:
    Image.effect_noise(size, 50).convert(mode).save(path)
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff", "gif"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_pictures_of_every_format_are_taken(suffix: str, mode: str, tmp_path: Path) -> None:
    if (suffix, mode) in {("jpg", "P")}:
        pytest.skip("a JPEG has no palette")
    assert picture_problem(saved(tmp_path / f"picture.{suffix}", mode=mode)) is None


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff", "gif"])
def test_a_picture_that_is_cut_off_is_refused(suffix: str, tmp_path: Path) -> None:
    path = saved(tmp_path / f"picture.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    problem = picture_problem(path)
    assert problem is not None and "no picture that can be read" in problem and "save it again" in problem


@pytest.mark.parametrize(
    ("size", "said"),
    [((20_000, 40), "has 20000x40 pixels"), ((10_000, 10_000), "has 10000x10000 pixels"), ((600, 20), "too narrow")],
)
def test_sizes_that_no_model_takes_are_refused_with_what_is_allowed(
    size: tuple[int, int], said: str, tmp_path: Path
) -> None:
    problem = picture_problem(declared(tmp_path / "picture.png", *size))
    assert problem is not None and said in problem and "at most 16384 pixels a side" in problem


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    problem = picture_problem(declared(tmp_path / "picture.png", 60_000, 60_000))
    assert problem is not None and "no picture that can be read" in problem


def declared(path: Path, width: int, height: int) -> Path:
    """A PNG that says to be so large, and holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0")), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("a fox")
    (tmp_path / "empty.png").write_text("")
    (tmp_path / "script.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")  # would be run
    for name in ("text.png", "empty.png", "script.eps"):
        assert "no picture that can be read" in str(picture_problem(tmp_path / name))
    assert "EPS" not in FORMATS
    assert "is not there" in str(picture_problem(tmp_path / "gone.png"))
    assert "is no file" in str(picture_problem(tmp_path))
    assert "is no file" in str(picture_problem(Path("/dev/zero")))
    assert "cannot be read" in str(picture_problem(tmp_path / ("n" * 300)))
    assert "cannot be read" in str(picture_problem(Path("a\0b")))
