import pytest
import torch

from llmc.eval.metrics.sharpness import Sharpness


def checkered(contrast: int) -> torch.Tensor:
    squares = (torch.arange(8).view(8, 1) + torch.arange(8).view(1, 8)) % 2 * contrast
    return squares.to(torch.uint8).view(1, 8, 8, 1).expand(3, 8, 8, 3)


def slow_detail(frame: torch.Tensor) -> float:
    """Pixel by pixel, in plain numbers; beyond the border is what lies on it."""
    rows = [[0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in row] for row in frame.tolist()]
    height, width, total = len(rows), len(rows[0]), 0.0
    for y in range(height):
        for x in range(width):
            up, down = rows[max(y - 1, 0)][x], rows[min(y + 1, height - 1)][x]
            left, right = rows[y][max(x - 1, 0)], rows[y][min(x + 1, width - 1)]
            total += (up + down + left + right - 4 * rows[y][x]) ** 2
    return float((total / (height * width)) ** 0.5)


@pytest.mark.parametrize(("wanted", "found"), [(100, 25), (25, 100)])
def test_a_quarter_of_the_contrast_or_four_times_it_is_a_quarter(wanted, found):
    assert Sharpness().score(checkered(wanted), checkered(found)).value == pytest.approx(0.25)


def test_an_even_frame_has_lost_all(clip):
    grey = torch.full((3, 8, 8, 3), 90, dtype=torch.uint8)
    assert Sharpness().score(checkered(100), grey).value < 0.01


def test_it_is_what_a_sum_over_pixels_gives(clip):
    reference, candidate, expected = clip(3, 6, 7), clip(3, 6, 7, noise=15), []
    for pair in zip(reference, candidate, strict=True):
        small, large = sorted(map(slow_detail, pair))
        expected.append(small / large)
    assert Sharpness().score(reference, candidate).per_frame == pytest.approx(expected, abs=1e-3)
