"""A camera: the rays of its pixels, and how light becomes a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from scripts.scenes.noise import Array

WIDTH, HEIGHT = 832, 480
FINER = 1.25  # rays for each pixel, in either direction


@dataclass(frozen=True)
class Camera:
    """Where it stands, what it looks at, and how wide it sees, in degrees across; y is up."""

    eye: Sequence[float]
    target: Sequence[float]
    wide: float = 60.0
    roll: float = 0.0

    def rays(self) -> Array:
        """The direction of each ray, (rows, columns, 3), of length 1."""
        rows, columns = round(HEIGHT * FINER), round(WIDTH * FINER)
        ahead = unit(np.subtract(self.target, self.eye).astype(np.float32))
        right = unit(np.cross(ahead, (np.sin(self.roll), np.cos(self.roll), 0)))
        up = np.cross(right, ahead)
        half = np.tan(np.radians(self.wide) / 2)
        x = ((np.arange(columns) + 0.5) / columns * 2 - 1) * half
        y = (1 - (np.arange(rows) + 0.5) / rows * 2) * half * rows / columns
        found = ahead + x[None, :, None] * right + y[:, None, None] * up
        return unit(found.astype(np.float32))


def unit(vectors: Array) -> Array:
    """Vectors of length 1."""
    length = np.sqrt((vectors * vectors).sum(-1, keepdims=True))
    return np.asarray(vectors / np.maximum(length, 1e-9), dtype=np.float32)


def dot(a: Array, b: Array) -> Array:
    """The products of vectors along the last dimension."""
    return np.asarray((a * b).sum(-1), dtype=np.float32)


def develop(light: Array, exposure: float = 1.0, seed: int = 0) -> Image.Image:
    """A picture of linear light: glow of what is bright, a film's curve, darker corners, a little grain."""
    light = np.clip(np.nan_to_num(light), 0, 60) * exposure
    rows, columns = light.shape[:2]
    light = light + 0.06 * blurred(np.maximum(light - 0.9, 0).clip(max=8), 14 * FINER)
    y, x = np.linspace(-1, 1, rows)[:, None], np.linspace(-1, 1, columns)[None, :]
    light = light * (1 - 0.22 * ((x * x + y * y) / 2))[..., None]
    value = (light * (2.51 * light + 0.03)) / (light * (2.43 * light + 0.59) + 0.14)  # Narkowicz's fit of ACES
    value = np.clip(value, 0, 1) ** (1 / 2.2)
    fine = Image.fromarray((value * 255 + 0.5).astype(np.uint8)).resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    grain = np.random.default_rng(seed).normal(0, 1.6, (HEIGHT, WIDTH, 1))
    return Image.fromarray(np.clip(np.asarray(fine) + grain, 0, 255).astype(np.uint8))


def blurred(image: Array, radius: float) -> Array:
    """The image as a lens out of focus spreads it, by three passes of a box: nearly a gaussian."""
    size = max(1, round(radius))
    for axis in (0, 1) * 3:
        padding = [(0, 0)] * image.ndim
        padding[axis] = (size + 1, size)
        sums = np.cumsum(np.pad(image, padding, mode="edge"), axis=axis, dtype=np.float64)
        high = np.take(sums, np.arange(2 * size + 1, sums.shape[axis]), axis=axis)
        low = np.take(sums, np.arange(0, sums.shape[axis] - 2 * size - 1), axis=axis)
        image = ((high - low) / (2 * size + 1)).astype(np.float32)
    return image
