"""The ffmpeg that imageio-ffmpeg brings: the frames of a tensor in, the bytes or files of a command out."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmc.errors import LlmcError

if TYPE_CHECKING:
    import torch


class FfmpegFailed(LlmcError):
    """ffmpeg is missing, failed or took too long."""


def run_ffmpeg(
    arguments: Sequence[str], stdin: bytes = b"", folder: Path | None = None, timeout: float = 900.0
) -> bytes:
    """Run ffmpeg in `folder` and return what it wrote to its standard output."""
    import imageio_ffmpeg

    try:
        ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as missing:
        raise FfmpegFailed(
            f"imageio-ffmpeg found no ffmpeg ({missing}); its wheels for Linux, macOS and Windows carry one; "
            "install imageio-ffmpeg from a wheel, or set IMAGEIO_FFMPEG_EXE"
        ) from None
    command = [ffmpeg, "-y", "-loglevel", "error", *arguments]
    logging.getLogger(__name__).debug("%s", " ".join(command))
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, cwd=folder, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise FfmpegFailed(
            f"{ffmpeg} had not ended after {timeout:g} s; a video is given that long; "
            "raise the timeout, or judge fewer or smaller frames"
        ) from None
    if done.returncode:
        raise FfmpegFailed(
            f"{ffmpeg} failed with {_last_line(done.stderr)!r}; it must know libx264 and libvmaf; "
            "use the one of imageio-ffmpeg (unset IMAGEIO_FFMPEG_EXE)"
        )
    return done.stdout


def raw_frames(frames: torch.Tensor, fps: int) -> tuple[list[str], bytes]:
    """What to write before the other arguments, and to the standard input, so that ffmpeg reads exactly `frames`."""
    height, width = frames.shape[1:3]
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    return source, frames.cpu().numpy().tobytes()


def _last_line(stderr: bytes) -> str:
    lines = stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no message"
