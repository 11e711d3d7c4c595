import math

import pytest
import torch

from llmc.eval.metrics.ssim import SSIM


def slow_ssim(x: torch.Tensor, y: torch.Tensor, side: int) -> float:
    """The definition, window by window, of one frame."""
    offsets = [(i - side // 2, j - side // 2) for i in range(side) for j in range(side)]
    weights = torch.tensor([math.exp(-(i * i + j * j) / (2 * 1.5**2)) for i, j in offsets], dtype=torch.float64)
    weights = (weights / weights.sum()).view(side, side)
    c1, c2, found = (0.01 * 255) ** 2, (0.03 * 255) ** 2, []
    for channel in range(3):
        for top in range(x.shape[0] - side + 1):
            for left in range(x.shape[1] - side + 1):
                a = x[top : top + side, left : left + side, channel].double()
                b = y[top : top + side, left : left + side, channel].double()
                ma, mb = (weights * a).sum(), (weights * b).sum()
                va, vb = (weights * (a - ma) ** 2).sum(), (weights * (b - mb) ** 2).sum()
                cov = (weights * (a - ma) * (b - mb)).sum()
                found.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return float(torch.stack(found).mean())


@pytest.mark.parametrize(("height", "width", "side"), [(16, 19, 11), (6, 9, 5), (7, 30, 7), (1, 1, 1)])
def test_it_is_the_definition_and_tiny_frames_get_a_window_that_fits(clip, height, width, side):
    reference, candidate = clip(1, height, width), clip(1, height, width, noise=12)
    expected = slow_ssim(reference[0], candidate[0], side)
    assert SSIM().score(reference, candidate).value == pytest.approx(expected, abs=5e-5)  # float32 against float64


def test_identical_videos_are_exactly_one(clip):
    assert SSIM().score(clip(2), clip(2)).value == 1.0
