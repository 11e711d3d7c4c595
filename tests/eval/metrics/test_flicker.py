import pytest
import torch

from llmc.eval.metrics.flicker import Flicker

WEIGHTS = (0.2126, 0.7152, 0.0722)


def slow_alternation(video: torch.Tensor) -> float:
    """Pixel by pixel, in plain numbers."""
    frames, squares = video.tolist(), []
    for t in range(1, len(frames) - 1):
        for y in range(len(frames[0])):
            for x in range(len(frames[0][0])):
                levels = [sum(w * v for w, v in zip(WEIGHTS, frames[t + d][y][x], strict=True)) for d in (-1, 0, 1)]
                squares.append((levels[1] - (levels[0] + levels[2]) / 2) ** 2 / 4)
    return float((sum(squares) / len(squares)) ** 0.5)


def test_alternating_by_five_grey_levels_is_five():
    calm = torch.full((6, 4, 4, 3), 100, dtype=torch.uint8)
    restless = calm.clone()
    restless[0::2] += 5
    restless[1::2] -= 5
    score = Flicker().score(calm, restless)
    assert score.value == pytest.approx(5.0)
    assert score.per_frame == pytest.approx([5.0] * 4)


def test_what_brightens_steadily_does_not_flicker():
    dark = torch.full((6, 4, 4, 3), 10, dtype=torch.uint8)
    brightening = (torch.arange(6, dtype=torch.uint8) * 20).view(6, 1, 1, 1).expand(6, 4, 4, 3)
    assert Flicker().score(dark, brightening).value == pytest.approx(0.0, abs=1e-9)


def test_a_calmer_candidate_is_no_better_than_a_calm_one(clip):
    assert Flicker().score(clip(5, noise=9), clip(5)).value == 0.0


def test_it_is_what_a_sum_over_pixels_gives(clip):
    reference, candidate = clip(4, 5, 6, noise=3), clip(4, 5, 6, noise=25)
    expected = slow_alternation(candidate) - slow_alternation(reference)
    assert Flicker().score(reference, candidate).value == pytest.approx(expected, abs=1e-3)


def test_two_frames_have_no_figure_but_a_reason(clip):
    score = Flicker().score(clip(2), clip(2))
    assert score.value is None and "three frames" in score.why
