"""SSIM (Wang et al. 2004): means, variances and covariance of two images in a sliding gaussian window."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch

from llmc.eval.metrics.base import Metric, Score

WINDOW, SIGMA = 11, 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


class SSIM(Metric):
    """Structural similarity, mean of the R, G and B channels and of the frames; identical videos are given 1."""

    name: Literal["ssim"] = "ssim"
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    title: ClassVar[str] = "SSIM"

    def compare(self, reference: torch.Tensor, candidate: torch.Tensor) -> Score:
        kernel = gaussian(window_of(reference))
        per_frame = tuple(_similarity(r, c, kernel) for r, c in zip(reference, candidate, strict=True))
        return Score(sum(per_frame) / len(per_frame), per_frame)


def window_of(frames: torch.Tensor) -> int:
    """The side of the window: 11, or the largest odd number that fits into a smaller frame."""
    side: int = min(WINDOW, *frames.shape[1:3])
    return side if side % 2 else side - 1


def gaussian(size: int) -> torch.Tensor:
    """One side of the window; the window is its outer product with itself, and sums to 1."""
    x = torch.arange(size, dtype=torch.float32) - size // 2
    weights = torch.exp(-(x**2) / (2 * SIGMA**2))
    return weights / weights.sum()


def _similarity(reference: torch.Tensor, candidate: torch.Tensor, kernel: torch.Tensor) -> float:
    x, y = (frame.permute(2, 0, 1).float() for frame in (reference, candidate))  # (3, height, width)
    x_mean, y_mean, xx, yy, xy = _smooth(torch.stack((x, y, x * x, y * y, x * y)), kernel)
    x_var, y_var, cov = xx - x_mean**2, yy - y_mean**2, xy - x_mean * y_mean
    luminance = (2 * x_mean * y_mean + C1) / (x_mean**2 + y_mean**2 + C1)
    structure = (2 * cov + C2) / (x_var + y_var + C2)
    return float((luminance * structure).double().mean())


def _smooth(maps: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Weighted mean in each window that lies wholly inside the frame; columns first, then rows."""
    for dim in (-1, -2):
        size = maps.shape[dim] - len(kernel) + 1
        # shifted sums: 17 times faster than conv2d here, which has no good kernel for one channel
        mean = torch.zeros_like(maps.narrow(dim, 0, size))
        for shift, weight in enumerate(kernel.tolist()):
            mean.add_(maps.narrow(dim, shift, size), alpha=weight)
        maps = mean
    return maps
