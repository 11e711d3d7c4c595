import math

import pytest
import torch

from llmc.eval.metrics.psnr import PSNR


def test_identical_videos_are_given_100_db(clip):
    assert PSNR().score(clip(2), clip(2)).per_frame == (100.0, 100.0)


def test_the_error_is_averaged_over_the_video_before_the_logarithm():
    black = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    half = black.clone()
    half[1] = 10
    score = PSNR().score(black, half)
    assert score.value == pytest.approx(10 * math.log10(255**2 / 50))
    assert score.per_frame == pytest.approx((100.0, 10 * math.log10(255**2 / 100)))
