from pathlib import Path

import numpy as np
import pytest
import torch

from llmc.eval.metrics.base import Pair
from llmc.eval.metrics.fvd import FVD, frechet


def slow_frechet(one: np.ndarray, other: np.ndarray) -> float:
    """By the covariances themselves: the trace of the root of their product from its eigenvalues."""
    covariances = [np.cov(rows, rowvar=False) for rows in (one, other)]
    roots = np.sqrt(np.maximum(np.linalg.eigvals(covariances[0] @ covariances[1]).real, 0))
    shift = one.mean(0) - other.mean(0)
    return float(shift @ shift + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * roots.sum())


def spread(deviation: float, mean: float) -> torch.Tensor:
    """Four rows in three dimensions with exactly that mean and standard deviation in each, and no correlation."""
    signs = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    return signs * deviation * (3 / 4) ** 0.5 + mean


def test_two_gaussians_of_one_shape_are_as_far_apart_as_their_means_and_deviations():
    assert frechet(spread(2.0, 0.0), spread(0.5, 1.0)) == pytest.approx(3 * (1.0**2 + (2.0 - 0.5) ** 2))


@pytest.mark.parametrize("rows", [(40, 30), (5, 4)], ids=["more rows than dimensions", "fewer"])
def test_it_is_what_the_covariances_give(rows):
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(count, 8, generator=generator, dtype=torch.float64) + i for i, count in enumerate(rows))
    assert frechet(one, other * 1.5) == pytest.approx(slow_frechet(one.numpy(), 1.5 * other.numpy()), rel=1e-3)


def test_videos_are_seen_clip_by_clip_as_videomae_sees_them(clip, tiny_videomae: Path):
    from transformers import VideoMAEModel

    references, candidates = clip(10, 16, 16), clip(10, 16, 16, noise=50)
    model, features = VideoMAEModel.from_pretrained(tiny_videomae).eval(), []
    for frames in (references, candidates):
        values = (frames.numpy() / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        clips = torch.from_numpy(values[:8].reshape(2, 4, 16, 16, 3).transpose(0, 1, 4, 2, 3)).float()
        features.append(model(clips).last_hidden_state.mean(1).detach().double().numpy())
    score = FVD(model=tiny_videomae).score_all([Pair(references, candidates)])
    assert score.value == pytest.approx(slow_frechet(*features), rel=1e-3)
    assert score.value > 0


def test_the_same_videos_are_no_distance_apart_and_short_ones_are_stretched(clip, tiny_videomae: Path):
    pairs = [Pair(clip(3, 20, 24), clip(3, 20, 24)), Pair(clip(3, 20, 24, noise=9), clip(3, 20, 24, noise=9))]
    assert FVD(model=tiny_videomae).score_all(pairs).value == pytest.approx(0.0, abs=1e-9)


def test_one_clip_has_no_figure_but_a_reason(clip, tiny_videomae: Path):
    assert "one clip" in FVD(model=tiny_videomae).score(clip(4), clip(4)).why


def test_a_network_of_images_is_no_network_of_videos(clip, tiny_dino: Path):
    assert "VideoMAE" in FVD(model=tiny_dino).score(clip(4), clip(4)).why
