"""VMAF (Netflix, model vmaf_v0.6.1), computed by the ffmpeg that imageio-ffmpeg brings."""

from __future__ import annotations

import logging
from typing import ClassVar, Literal

import torch
from pydantic import Field

from llmc.atomic import scratch_folder
from llmc.eval.ffmpeg import FfmpegFailed, raw_frames, run_ffmpeg
from llmc.eval.metrics.base import Metric, Score
from llmc.files.json_text import read_object

SMALLEST = 17  # pixels; libvmaf refuses a side of 16 or less (measured)


class VMAF(Metric):
    """Perceptual quality from 0 to 100; trained on full-screen HD, so on small frames compare it only with itself.

    A frame without motion before it tops out near 97.4, so the first frame does, and every image. Frames with a side
    below 17 pixels are enlarged by a whole factor, nearest neighbour.
    """

    name: Literal["vmaf"] = "vmaf"
    threads: int = Field(2, ge=1, le=256, description="threads of libvmaf; the figure does not depend on it")
    timeout: float = Field(900.0, gt=0, le=1e6, description="seconds for one video before it is given up")
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    title: ClassVar[str] = "VMAF"
    digits: ClassVar[int] = 2
    least_frames: ClassVar[int] = 2  # of an image it would say 97.4 where nothing differs

    def compare(self, reference: torch.Tensor, candidate: torch.Tensor) -> Score:
        try:
            per_frame = self._frames(_enlarge(reference), _enlarge(candidate))
        except FfmpegFailed as failed:  # a run of hours must not end here: the report says why the figure is missing
            logging.getLogger(__name__).warning("no VMAF: %s", failed)
            return Score(None, why=str(failed))
        return Score(sum(per_frame) / len(per_frame), per_frame)

    def _frames(self, reference: torch.Tensor, candidate: torch.Tensor) -> tuple[float, ...]:
        height, width = reference.shape[1:3]
        # one lossless pipe carries both, candidate above reference; 4:4:4 so that odd sizes need no rounding
        source, stdin = raw_frames(torch.cat((candidate, reference), dim=1), fps=16)
        graph = (
            f"split[a][b];[a]crop={width}:{height}:0:0,format=yuv444p[candidate];"
            f"[b]crop={width}:{height}:0:{height},format=yuv444p[reference];"
            f"[candidate][reference]libvmaf=log_fmt=json:log_path=vmaf.json:n_threads={self.threads}"
        )
        with scratch_folder("video") as folder:
            arguments = [*source, "-filter_complex", graph, "-f", "null", "-"]
            run_ffmpeg(arguments, stdin, folder=folder, timeout=self.timeout)
            log = read_object(folder / "vmaf.json", FfmpegFailed)
        return tuple(frame["metrics"]["vmaf"] for frame in log["frames"])


def _enlarge(frames: torch.Tensor) -> torch.Tensor:
    factor = -(-SMALLEST // min(frames.shape[1:3]))
    return frames.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2) if factor > 1 else frames
