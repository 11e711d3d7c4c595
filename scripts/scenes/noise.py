"""Noise without a table: a hash of whole numbers, smoothed between them."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float32]
TURN = (0.8, 0.6)  # cosine and sine between octaves, so that their grids do not line up


def hashed(x: NDArray[np.int64], y: NDArray[np.int64], seed: int) -> Array:
    """A number from 0 to 1 for each pair of whole numbers."""
    h = (x.astype(np.uint32) * np.uint32(374761393)) ^ (y.astype(np.uint32) * np.uint32(668265263))
    h = (h + np.uint32(seed * 7919 + 11)) * np.uint32(2246822519)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(3266489917)
    return ((h ^ (h >> np.uint32(16))) & np.uint32(0xFFFF)).astype(np.float32) / np.float32(65535)


def smooth(x: Array, y: Array, seed: int = 0) -> Array:
    """Noise from 0 to 1 with features of size 1."""
    left, low = np.floor(x), np.floor(y)
    u, v = (x - left).astype(np.float32), (y - low).astype(np.float32)
    u, v = u * u * u * (u * (u * 6 - 15) + 10), v * v * v * (v * (v * 6 - 15) + 10)
    i, j = left.astype(np.int64), low.astype(np.int64)
    below = hashed(i, j, seed) * (1 - u) + hashed(i + 1, j, seed) * u
    above = hashed(i, j + 1, seed) * (1 - u) + hashed(i + 1, j + 1, seed) * u
    return below * (1 - v) + above * v


def fractal(x: Array, y: Array, octaves: int, seed: int = 0, roughness: float = 0.5) -> Array:
    """Noise of several sizes, each half the one before; about 0 to 1."""
    total, weight, whole = np.zeros_like(x), 1.0, 0.0
    for octave in range(octaves):
        total = total + np.float32(weight) * smooth(x, y, seed + octave)
        whole += weight
        weight *= roughness
        x, y = 2 * (TURN[0] * x - TURN[1] * y) + 17.3, 2 * (TURN[1] * x + TURN[0] * y) - 5.1
    return total / np.float32(whole)


def ridged(x: Array, y: Array, octaves: int, seed: int = 0) -> Array:
    """Noise with sharp crests, as mountains have them; about 0 to 1."""
    total, weight, whole = np.zeros_like(x), 1.0, 0.0
    for octave in range(octaves):
        crest = 1 - np.abs(2 * smooth(x, y, seed + octave) - 1)
        total = total + np.float32(weight) * crest * crest
        whole += weight
        weight *= 0.47
        x, y = 2 * (TURN[0] * x - TURN[1] * y) + 3.7, 2 * (TURN[1] * x + TURN[0] * y) + 9.2
    return total / np.float32(whole)


def step(low: float, high: float, x: Array) -> Array:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def mix(a: Array, b: Array, share: Array) -> Array:
    """Colours of (…, 3): `a` where the share, (…), is 0, `b` where it is 1."""
    part = np.asarray(share, np.float32)[..., None]
    return a * (1 - part) + b * part
