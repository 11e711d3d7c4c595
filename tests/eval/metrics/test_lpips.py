from pathlib import Path

import numpy as np
import pytest
import torch

from llmc.eval.metrics.lpips import LPIPS

# (index, channels in, channels out, kernel, stride, padding) of AlexNet's convolutions, with a few channels each
ALEX = [(0, 3, 4, 11, 4, 2), (3, 4, 6, 5, 1, 2), (6, 6, 5, 3, 1, 1), (8, 5, 4, 3, 1, 1), (10, 4, 3, 3, 1, 1)]
POOLED = (0, 3)  # a pool comes after these


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Files of an AlexNet and its heads, as torchvision and lpips name their tensors."""
    folder, generator = tmp_path_factory.mktemp("alex"), torch.Generator().manual_seed(0)
    backbone, heads = {"classifier.1.weight": torch.zeros(2, 2)}, {}
    for place, (index, came, goes, side, _, _) in enumerate(ALEX):
        shape = (goes, came, side, side)
        backbone[f"features.{index}.weight"] = torch.randn(shape, generator=generator) / (came * side**2) ** 0.5
        backbone[f"features.{index}.bias"] = torch.randn(goes, generator=generator) / 4
        heads[f"lin{place}.model.1.weight"] = torch.rand(1, goes, 1, 1, generator=generator)
    torch.save(backbone, folder / "alexnet.pth")
    torch.save(heads, folder / "heads.pth")
    return folder / "alexnet.pth", folder / "heads.pth"


def slow_convolution(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int, padding: int) -> np.ndarray:
    """Position by position: x is (channels, height, width)."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    side = weight.shape[-1]
    height, width = ((size - side) // stride + 1 for size in x.shape[1:])
    out = np.empty((len(weight), height, width))
    for i in range(height):
        for j in range(width):
            patch = x[:, i * stride : i * stride + side, j * stride : j * stride + side]
            out[:, i, j] = (weight * patch).sum((1, 2, 3)) + bias
    return np.maximum(out, 0)


def slow_pool(x: np.ndarray) -> np.ndarray:
    height, width = ((size - 3) // 2 + 1 for size in x.shape[1:])
    rows = [[x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((1, 2)) for j in range(width)] for i in range(height)]
    return np.array(rows).transpose(2, 0, 1)


def slow_lpips(frames: tuple[torch.Tensor, torch.Tensor], backbone: Path, heads: Path) -> float:
    """Two frames by the definition."""
    trunk = {name: tensor.double().numpy() for name, tensor in torch.load(backbone, weights_only=True).items()}
    lines = [tensor.double().numpy()[0, :, 0, 0] for tensor in torch.load(heads, weights_only=True).values()]
    seen = []
    for frame in frames:
        x = frame.double().numpy() / 255 * 2 - 1
        x = ((x - (-0.030, -0.088, -0.188)) / (0.458, 0.448, 0.450)).transpose(2, 0, 1)
        taps = []
        for index, _, _, _, stride, padding in ALEX:
            x = slow_convolution(x, trunk[f"features.{index}.weight"], trunk[f"features.{index}.bias"], stride, padding)
            taps.append(x / (np.sqrt((x**2).sum(0)) + 1e-10))
            x = slow_pool(x) if index in POOLED else x
        seen.append(taps)
    distances = [((r - c) ** 2).transpose(1, 2, 0) @ line for r, c, line in zip(*seen, lines, strict=True)]
    return float(sum(distance.mean() for distance in distances))


def test_it_is_the_definition_position_by_position(clip, weights):
    reference, candidate = clip(2, 40, 53), clip(2, 40, 53, noise=30)
    expected = [slow_lpips(pair, *weights) for pair in zip(reference, candidate, strict=True)]
    score = LPIPS(backbone=weights[0], heads=weights[1]).score(reference, candidate)
    assert score.per_frame == pytest.approx(expected, abs=1e-3, rel=1e-3)
    assert score.value == pytest.approx(sum(expected) / 2, rel=1e-3)


def test_more_noise_is_further_away_and_none_is_nothing(clip, weights):
    metric = LPIPS(backbone=weights[0], heads=weights[1])
    figures = [metric.score(clip(5, 36, 36), clip(5, 36, 36, noise=noise)).value for noise in (0, 6, 30)]
    assert figures[0] == 0 and figures == sorted(figures)


def test_small_frames_are_those_frames_enlarged(clip, weights):
    metric, pair = LPIPS(backbone=weights[0], heads=weights[1]), (clip(2, 16, 20), clip(2, 16, 20, noise=9))
    enlarged = [frames.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2) for frames in pair]
    assert metric.score(*pair) == metric.score(*enlarged)


@pytest.mark.parametrize(("net", "name"), [("alex", "alexnet-owt"), ("vgg", "vgg16"), ("squeeze", "squeezenet1_1")])
def test_without_weights_it_says_what_to_fetch_and_where_to_put_it(net, name, clip, tmp_path, monkeypatch, weights):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    why = LPIPS(net=net).score(clip(2), clip(2)).why
    assert str(tmp_path) in why and f"https://download.pytorch.org/models/{name}" in why
    why = LPIPS(net=net, backbone=weights[0], heads=tmp_path / "none.pth").score(clip(2), clip(2)).why
    assert "pip install --no-deps lpips" in why


def test_weights_are_found_where_the_packages_leave_them(clip, tmp_path, monkeypatch, weights):
    hub, package = tmp_path / "hub" / "checkpoints", tmp_path / "lpips"
    (package / "weights" / "v0.1").mkdir(parents=True)
    hub.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('it is looked for, not imported')\n")
    (package / "weights" / "v0.1" / "alex.pth").symlink_to(weights[1])
    (hub / "alexnet-owt-7be5be79.pth").symlink_to(weights[0])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    pair = clip(2), clip(2, noise=9)
    assert LPIPS().score(*pair) == LPIPS(backbone=weights[0], heads=weights[1]).score(*pair)


@pytest.mark.parametrize("net", ["vgg", "squeeze"])
def test_weights_of_another_classifier_give_no_figure_and_say_which_is_meant(net, clip, weights):
    score = LPIPS(net=net, backbone=weights[0], heads=weights[1]).score(clip(2), clip(2))
    assert score.value is None and f"the backbone of {net}" in score.why


def test_a_damaged_file_ends_no_run(clip, tmp_path, weights):
    (tmp_path / "cut.pth").write_bytes(weights[0].read_bytes()[:500])
    score = LPIPS(backbone=tmp_path / "cut.pth", heads=weights[1]).score(clip(2), clip(2))
    assert score.value is None and "cannot be read" in score.why
