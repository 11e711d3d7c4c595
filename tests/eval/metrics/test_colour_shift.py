import pytest
import torch

from llmc.eval.metrics.colour_shift import ColourShift

# L*, a*, b* under D65, as tables of colour give them
KNOWN = {
    (255, 255, 255): (100.0, 0.0, 0.0),
    (0, 0, 0): (0.0, 0.0, 0.0),
    (255, 0, 0): (53.24, 80.09, 67.20),
    (0, 255, 0): (87.73, -86.18, 83.18),
    (0, 0, 255): (32.30, 79.19, -107.86),
}


def even(colour: tuple[int, int, int]) -> torch.Tensor:
    return torch.tensor(colour, dtype=torch.uint8).expand(2, 3, 4, 3)


def slow_lab(rgb: list[int]) -> list[float]:
    """One pixel, in plain numbers, with the constants of CIE 15 rather than their exact fractions."""
    r, g, b = ((v / 255 / 12.92) if v / 255 <= 0.04045 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in rgb)
    x = (0.4124564 * r + 0.3575761 * g + 0.1804375 * b) / 0.95047
    y = 0.2126729 * r + 0.7151522 * g + 0.0721750 * b
    z = (0.0193339 * r + 0.1191920 * g + 0.9503041 * b) / 1.08883
    fx, fy, fz = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
    return [116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)]


@pytest.mark.parametrize("colour", KNOWN, ids=str)
def test_even_colours_are_as_far_apart_as_tables_say(colour):
    lightness, a, b = KNOWN[colour]
    expected = ((lightness - 100) ** 2 + a**2 + b**2) ** 0.5
    assert ColourShift().score(even((255, 255, 255)), even(colour)).value == pytest.approx(expected, abs=0.02)


def test_it_is_the_distance_of_the_mean_colours_pixel_by_pixel(clip):
    pair, expected = (clip(2, 6, 7), clip(2, 6, 7, noise=40)), []
    for frames in zip(*pair, strict=True):
        means = []
        for frame in frames:
            pixels = [slow_lab(pixel) for pixel in frame.flatten(0, 1).tolist()]
            means.append([sum(channel) / len(pixels) for channel in zip(*pixels, strict=True)])
        expected.append(sum((r - c) ** 2 for r, c in zip(*means, strict=True)) ** 0.5)
    assert ColourShift().score(*pair).per_frame == pytest.approx(expected, abs=1e-3)


def test_pixels_that_change_places_shift_nothing():
    frames = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert ColourShift().score(frames, frames.flip(1)).value == pytest.approx(0.0, abs=1e-9)
