import pytest
import torch

from llmc.errors import LlmcError
from llmc.eval.compare import Comparison, compare_videos, latent_error, mean_of
from llmc.eval.metrics.psnr import PSNR
from llmc.eval.metrics.temporal import TemporalError
from llmc.models.samples import Video


def video(frames: torch.Tensor) -> Video:
    return Video(frames, frames.float() / 255)


def test_each_sample_gets_every_figure_and_the_latent_error(clip):
    float_, quantized = [video(clip(3)), video(clip(1))], [video(clip(3)), video(clip(1, noise=9))]
    same, image = compare_videos(float_, quantized, [PSNR(), TemporalError()])
    assert same.metrics == {"psnr": 100.0, "temporal_error": 0.0, "latent_error": 0.0}
    assert {key: len(figures) for key, figures in same.per_frame.items()} == {"psnr": 3, "temporal_error": 2}
    assert image.metrics["temporal_error"] is None and "temporal_error" in image.missing
    assert 0 < image.metrics["latent_error"] < 1


def test_a_mean_leaves_out_samples_without_the_figure():
    samples = [Comparison({"vmaf": None, "psnr": 30.0, "x": None}), Comparison({"vmaf": 90.0, "psnr": 40.0, "x": None})]
    assert mean_of(samples) == {"vmaf": 90.0, "psnr": 35.0, "x": None}
    assert mean_of([]) == {}


def test_the_latent_error_is_relative():
    latents = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert latent_error(latents, latents * 1.25).value == pytest.approx(0.0625)


def test_latents_that_went_nan_have_no_figure_but_a_reason():
    latents = torch.ones(4)
    score = latent_error(latents, latents / torch.tensor([1.0, 0.0, 1.0, 1.0]))
    assert score.value is None and "infinity" in score.why


def test_runs_over_different_samples_are_refused(clip):
    with pytest.raises(LlmcError, match="2 reference videos and 1 candidates"):
        compare_videos([video(clip(2))] * 2, [video(clip(2))], [])
    with pytest.raises(LlmcError, match="latents"):
        latent_error(torch.ones(3), torch.ones(4))
