"""Videos as files: mp4 for watching, and one picture that shows float and quantized frames side by side."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llmc.atomic import atomic_path
from llmc.eval.ffmpeg import run_ffmpeg
from llmc.eval.metrics.base import check_frames

if TYPE_CHECKING:
    from PIL import Image

GAIN = 8  # what `difference` multiplies by; one constant, so that every report shows the same scale

# visually lossless, and tagged, so that a browser need not guess the colours from the size
ENCODING = (
    *("-crf", "10", "-preset", "medium", "-movflags", "+faststart"),
    *("-vf", "scale=out_color_matrix=bt709:sws_flags=accurate_rnd+full_chroma_int,format=yuv420p"),
    *("-color_primaries", "bt709", "-color_trc", "bt709", "-colorspace", "bt709"),
)


def write_video(path: Path, frames: torch.Tensor, fps: int = 16) -> Path:
    """Write (frames, height, width, 3) as mp4, or a single frame as PNG; returns the path with its true suffix.

    H.264 in 4:2:0 needs even sides: an odd one gets its last row or column twice.
    """
    check_frames(frames, "video to write")
    path = path.with_suffix(".png" if len(frames) == 1 else ".mp4")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as unfinished:
        if len(frames) == 1:
            _image(frames[0]).save(unfinished)
        else:
            _write_mp4(unfinished, _even(frames).cpu().numpy(), fps)
    return path


def _write_mp4(path: Path, frames: Iterable[Any], fps: int) -> None:
    import imageio.v2 as imageio

    # quality None leaves the rate to ENCODING; a macro block of 1 keeps the size as it is
    writer: Any = imageio.get_writer(
        path, format="FFMPEG", fps=fps, codec="libx264", quality=None, macro_block_size=1, ffmpeg_params=[*ENCODING]
    )
    with writer:
        for frame in frames:
            writer.append_data(frame)


def read_video(path: Path) -> torch.Tensor:
    """The frames of a file that `write_video` wrote, as the lossy mp4 shows them: for looking at, not for measuring."""
    # PPM is the raw pipe that says its size: "P6\nwidth height\n255\n" before the bytes of each frame
    stream = run_ffmpeg(["-i", str(path), "-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "-"])
    magic, size, peak = stream.split(b"\n", 3)[:3]
    width, height = map(int, size.split())
    length = len(magic + size + peak) + 3 + height * width * 3
    frames = torch.frombuffer(bytearray(stream), dtype=torch.uint8).view(-1, length)
    return frames[:, -height * width * 3 :].reshape(-1, height, width, 3)


def difference(reference: torch.Tensor, candidate: torch.Tensor, gain: int = GAIN) -> torch.Tensor:
    """|reference - candidate| × gain, as frames to look at."""
    return ((reference.int() - candidate.int()).abs() * gain).clamp(max=255).to(torch.uint8)


def write_preview(path: Path, float_: torch.Tensor, quantized: torch.Tensor, columns: int = 5) -> Path:
    """Write a PNG with three rows of the same few frames: float, quantized, and their amplified difference."""
    from PIL import Image, ImageDraw, ImageFont

    check_frames(float_, "float video")
    check_frames(quantized, "quantized video")
    shown = torch.linspace(0, len(float_) - 1, min(columns, len(float_))).round().long().tolist()
    rows = {"float": float_, "quantized": quantized, f"difference x {GAIN}": difference(float_, quantized)}
    width, height = _tile(float_.shape[2], float_.shape[1])
    gap, caption = 8, 30
    size = (gap + len(shown) * (width + gap), len(rows) * (caption + height) + gap)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for row, (label, frames) in enumerate(rows.items()):
        top = row * (caption + height)
        draw.text((gap, top + 8), label, fill="#333333", font=font)
        for column, index in enumerate(shown):
            tile = _image(frames[index]).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(tile, (gap + column * (width + gap), top + caption))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as unfinished:
        sheet.save(unfinished, format="PNG")
    return path


def _tile(width: int, height: int) -> tuple[int, int]:
    """About 256 pixels wide: tiny frames by a whole factor, so that their pixels stay square."""
    factor = max(1, 256 // width) if width < 256 else 256 / width
    return round(width * factor), max(1, round(height * factor))


def _even(frames: torch.Tensor) -> torch.Tensor:
    height, width = frames.shape[1:3]
    rows = torch.arange(height + height % 2).clamp(max=height - 1)
    columns = torch.arange(width + width % 2).clamp(max=width - 1)
    return frames[:, rows][:, :, columns]


def _image(frame: torch.Tensor) -> Image.Image:
    from PIL import Image

    return Image.fromarray(frame.cpu().numpy())
