"""What every metric promises; a new one is tested by being in the folder."""

import ast
import json
from pathlib import Path

import pytest
import torch

import llmc.eval.metrics
from llmc.errors import LlmcError
from llmc.eval.metrics.base import Metric
from llmc.plugin import discover

METRICS = discover("llmc.eval.metrics", Metric)
FILES = sorted(Path(llmc.eval.metrics.__path__[0]).glob("*.py"))


OF_WEIGHTS = [name for name, metric in METRICS.items() if metric().obstacle()]


@pytest.fixture(params=sorted(METRICS.keys() - OF_WEIGHTS))
def metric(request):
    return METRICS[request.param]()


def test_metrics_of_pixels_need_nothing_and_those_of_networks_say_what_they_need(clip):
    assert {"psnr", "ssim", "vmaf", "temporal_error", "flicker", "sharpness"} <= METRICS.keys() - OF_WEIGHTS
    for name in OF_WEIGHTS:
        score = METRICS[name]().score(clip(3), clip(3, noise=5), prompt="a wave")
        assert score.value is None and name in score.why and ("put" in score.why or "install" in score.why)


@pytest.mark.parametrize("size", [(64, 64), (47, 33), (16, 16), (7, 9)], ids=str)
def test_more_noise_gives_a_worse_figure_and_none_the_best(metric, clip, size):
    reference = clip(4, *size)
    figures = [metric.score(reference, clip(4, *size, noise=noise)).value for noise in (0, 6, 30)]
    assert figures == sorted(figures, reverse=metric.better == "higher")
    assert len(set(figures)) == 3


def test_frames_have_figures_of_their_own(metric, clip):
    score = metric.score(clip(5), clip(5, noise=5))
    assert len(score.per_frame) in (3, 4, 5)  # a figure of motion belongs to the step between two or three frames
    assert all(type(value) is float for value in (score.value, *score.per_frame))


def test_an_image_has_a_figure_or_a_reason_why_not(metric, clip):
    same = metric.score(clip(1), clip(1))
    noisy = metric.score(clip(1), clip(1, noise=20))
    if same.value is None:
        assert same.why and noisy.why and not same.per_frame
    else:
        assert (same.value > noisy.value) == (metric.better == "higher")


@pytest.mark.parametrize("size", [(1, 1), (64, 64)], ids=str)
def test_still_black_videos_give_finite_figures(metric, size):
    black = torch.zeros(3, *size, 3, dtype=torch.uint8)
    score = metric.score(black, black)
    json.dumps([score.value, *score.per_frame], allow_nan=False)


def test_the_same_videos_give_the_same_figure_again(metric, clip):
    pair = clip(3), clip(3, noise=9)
    assert metric.score(*pair) == metric.score(*pair)


def test_videos_of_two_shapes_are_refused(metric, clip):
    with pytest.raises(LlmcError, match="one shape"):
        metric.score(clip(3, 32, 32), clip(3, 32, 48))
    with pytest.raises(LlmcError, match="one shape"):
        metric.score(clip(3), clip(4))


def test_what_is_no_uint8_video_is_refused(metric, clip):
    with pytest.raises(LlmcError, match="uint8"):
        metric.score(clip(3).float(), clip(3))
    with pytest.raises(LlmcError, match="uint8"):
        metric.score(clip(3), clip(3)[0])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_listing_the_metrics_touches_no_attribute_of_torch(file):
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            assert node.module and node.module.split(".")[0] not in ("torch", "numpy", "imageio", "PIL")
        elif isinstance(node, ast.ClassDef | ast.Assign | ast.AnnAssign):
            inside = [part for part in ast.walk(node) if not isinstance(part, ast.FunctionDef)]
            functions = {id(n) for part in ast.walk(node) if isinstance(part, ast.FunctionDef) for n in ast.walk(part)}
            touched = [n for n in inside if id(n) not in functions and isinstance(n, ast.Name) and n.id == "torch"]
            assert not touched
