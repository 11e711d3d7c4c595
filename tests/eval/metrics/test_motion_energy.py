from itertools import pairwise

import pytest
import torch

from llmc.eval.metrics.motion_energy import MotionEnergy


def brightening(by: int) -> torch.Tensor:
    return (torch.arange(5, dtype=torch.uint8) * by).view(5, 1, 1, 1).expand(5, 3, 4, 3)


def slow_energy(video: torch.Tensor) -> float:
    """Pixel by pixel, in plain numbers."""
    frames, squares = video.tolist(), []
    for before, after in pairwise(frames):
        for rows in zip(before, after, strict=True):
            for (r0, g0, b0), (r1, g1, b1) in zip(*rows, strict=True):
                squares.append((0.2126 * (r1 - r0) + 0.7152 * (g1 - g0) + 0.0722 * (b1 - b0)) ** 2)
    return sum(squares) / len(squares)


@pytest.mark.parametrize(("wanted", "found"), [(10, 5), (5, 10)])
def test_half_the_speed_or_twice_has_a_quarter_of_the_energy_in_common(wanted, found):
    score = MotionEnergy().score(brightening(wanted), brightening(found))
    assert score.value == pytest.approx(0.25)
    assert score.per_frame == pytest.approx([0.25] * 4)


def test_a_video_that_froze_has_next_to_nothing():
    assert MotionEnergy().score(brightening(20), brightening(0)).value == pytest.approx(1 / 400)


def test_where_it_moves_does_not_matter(clip):
    assert MotionEnergy().score(clip(4), clip(4).flip(2)).value == pytest.approx(1.0)


def test_it_is_what_a_sum_over_pixels_gives(clip):
    reference, candidate = clip(4, 5, 6), clip(4, 5, 6, noise=25)
    energies = slow_energy(reference), slow_energy(candidate)
    assert MotionEnergy().score(reference, candidate).value == pytest.approx(min(energies) / max(energies), abs=1e-3)
