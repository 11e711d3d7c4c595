"""Skies: what a ray sees that meets nothing, by day, at dusk, at night."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scripts.scenes.camera import dot, unit
from scripts.scenes.noise import Array, fractal, hashed, mix, step

Colour = Sequence[float]


@dataclass(frozen=True)
class Sky:
    """Colours from horizon to zenith, the sun or moon, and clouds; `drift` moves the clouds."""

    zenith: Colour
    horizon: Colour
    sun: Colour  # its direction
    sunlight: Colour
    glow: float = 0.35
    clouds: float = 0.5  # share of the sky
    cloud: Colour = (1.0, 1.0, 1.0)
    stars: float = 0.0
    drift: float = 0.0
    seed: int = 0
    disc: float = 0.9995  # cosine of the sun's radius

    def towards(self) -> Array:
        """The direction of the sun."""
        return unit(np.asarray(self.sun, np.float32))

    def light(self) -> Array:
        """The colour of its light."""
        return np.asarray(self.sunlight, np.float32)

    def seen(self, rays: Array, disc: bool = True) -> Array:
        """The light that comes from where the rays go, (…, 3)."""
        height = np.maximum(rays[..., 1], 0.0)
        colour = mix(np.asarray(self.horizon, np.float32), np.asarray(self.zenith, np.float32), height**0.45)
        near = np.maximum(dot(rays, self.towards()), 0)
        light = self.light()
        colour = colour + light * (self.glow * (0.18 * near**6 + 0.3 * near**60))[..., None]
        if self.stars:
            colour = colour + self.stars * _stars(rays, self.seed)[..., None]
        if disc:
            colour = colour + light * (6 * step(self.disc - 0.0004, self.disc + 0.0002, near))[..., None]
        return self._clouded(rays, colour, near) if self.clouds else colour

    def _clouded(self, rays: Array, colour: Array, near: Array) -> Array:
        flat = np.maximum(rays[..., 1], 0.02)
        x, z = rays[..., 0] / flat * 0.9 + self.drift, rays[..., 2] / flat * 0.9
        dense = step(1 - self.clouds, 1.25 - self.clouds, fractal(x, z, 6, self.seed) * 1.25)
        aside = self.towards() * 0.25
        shade = step(0.3, 0.9, fractal(x + aside[0], z + aside[2], 5, self.seed))
        lit = np.asarray(self.cloud, np.float32) * (1.05 - 0.55 * shade)[..., None]
        lit = lit + self.light() * (0.25 * near**8 * (1 - 0.6 * dense))[..., None]
        return mix(colour, lit, dense * step(0.0, 0.16, rays[..., 1]) * 0.92)


def _stars(rays: Array, seed: int) -> Array:
    """Points of different brightness, few of them bright."""
    across, up = np.arctan2(rays[..., 0], rays[..., 2]) * 150, np.arcsin(np.clip(rays[..., 1], -1, 1)) * 150
    i, j = np.floor(across).astype(np.int64), np.floor(up).astype(np.int64)
    there = hashed(i, j, seed)
    off = np.hypot(across - i - 0.2 - 0.6 * hashed(i, j, seed + 1), up - j - 0.2 - 0.6 * hashed(i, j, seed + 2))
    bright = np.where(there > 0.93, ((there - 0.93) / 0.07) ** 4 + 0.08, 0)
    return (bright * np.exp(-((off / 0.13) ** 2))).astype(np.float32)


def hazed(colour: Array, distance: Array, rays: Array, sky: Sky, density: float, warmth: float = 0.6) -> Array:
    """What is far away, seen through air: paler, and warmer towards the sun."""
    near = np.maximum(dot(rays, sky.towards()), 0)
    air = np.asarray(sky.horizon, np.float32) + sky.light() * (warmth * 0.25 * near**5)[..., None]
    return mix(colour, air, 1 - np.exp(-((distance * density) ** 1.3)))
