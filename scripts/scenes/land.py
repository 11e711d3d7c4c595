"""Land: mountains, hills, dunes and islands as a field of heights, with still or moving water."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from scripts.scenes.camera import Camera, dot, unit
from scripts.scenes.noise import Array, fractal, mix, ridged, smooth, step
from scripts.scenes.sky import Colour, Sky, hazed

Height = Callable[[Array, Array], Array]
FAR = 60.0


@dataclass(frozen=True)
class Ground:
    """Colours of what grows or lies on land, by height and slope."""

    low: Colour = (0.10, 0.16, 0.04)
    high: Colour = (0.20, 0.20, 0.09)
    rock: Colour = (0.22, 0.20, 0.19)
    top: Colour = (0.85, 0.88, 0.95)  # snow
    snow_from: float = 99.0
    steep: float = 0.72  # the least upward part of a normal that anything grows on


@dataclass(frozen=True)
class Land:
    """Heights, their ground, the sky above, and water up to a level, with waves of a steepness."""

    height: Height
    sky: Sky
    ground: Ground = field(default_factory=Ground)
    water: float | None = None
    waves: float = 0.02
    wave_size: float = 0.25
    deep: Colour = (0.01, 0.05, 0.07)
    haze: float = 0.035
    when: float = 0.0

    def seen(self, camera: Camera) -> Array:
        """The light that a camera sees."""
        rays, eye = camera.rays(), np.asarray(camera.eye, np.float32)
        origin = np.broadcast_to(eye, rays.shape)
        return self._traced(origin, rays, reflects=True)

    def _traced(self, origin: Array, rays: Array, reflects: bool) -> Array:
        shape = rays.shape[:-1]
        origin, rays = origin.reshape(-1, 3), rays.reshape(-1, 3)
        distance = march(self.height, origin, rays)
        colour = self.sky.seen(rays)
        hit = distance < FAR
        if hit.any():
            colour[hit] = self._shaded(origin[hit], rays[hit], distance[hit])
        if self.water is not None:
            with np.errstate(divide="ignore"):
                surface = np.where(rays[:, 1] < -1e-4, (self.water - origin[:, 1]) / rays[:, 1], np.inf)
            wet = (surface > 0) & (surface < np.minimum(distance, 4 * FAR))
            if wet.any():
                colour[wet] = self._watered(origin[wet], rays[wet], surface[wet], reflects)
        return colour.reshape(*shape, 3)

    def _shaded(self, origin: Array, rays: Array, distance: Array) -> Array:
        """Land in sunlight, with shadows of other land, and the sky's light."""
        at = origin + rays * distance[:, None]
        normal = slope(self.height, at, 0.004 + 0.002 * distance)
        sun = self.sky.towards()
        lit = np.maximum(dot(normal, sun), 0)
        facing = lit > 0
        above = at[facing] + normal[facing] * 0.03
        lit[facing] *= clearance(self.height, above, sun)
        ambient = np.asarray(self.sky.zenith, np.float32) * (0.5 + 0.5 * normal[:, 1:2]) * 0.9
        ambient = ambient + np.asarray(self.sky.horizon, np.float32) * 0.12
        colour = self._surface(at, normal) * (self.sky.light() * lit[:, None] + ambient)
        return hazed(colour, distance, rays, self.sky, self.haze)

    def _surface(self, at: Array, normal: Array) -> Array:
        ground, x, z = self.ground, at[:, 0], at[:, 2]
        mottled = fractal(x * 9, z * 9, 4, 31)
        fine = fractal(x * 70, z * 70, 3, 57)
        flat = mix(np.asarray(ground.low, np.float32), np.asarray(ground.high, np.float32), step(0.35, 0.65, mottled))
        layered = smooth(at[:, 1] * 26 + mottled * 3, x * 2, 77)
        stone = np.asarray(ground.rock, np.float32) * (0.65 + 0.6 * layered * mottled)[:, None]
        grows = step(ground.steep - 0.12, ground.steep + 0.08, normal[:, 1] + 0.2 * (mottled - 0.5))
        colour = mix(stone, flat, grows)
        snow = step(ground.snow_from - 0.12, ground.snow_from + 0.12, at[:, 1] + 0.35 * (mottled - 0.5))
        snow = snow * step(0.5, 0.72, normal[:, 1])
        return mix(colour, np.asarray(ground.top, np.float32), snow) * (0.7 + 0.6 * fine)[:, None]

    def _watered(self, origin: Array, rays: Array, surface: Array, reflects: bool) -> Array:
        """Water that reflects sky and shore, more so at a flat angle (Schlick), and shows its own colour else."""
        at = origin + rays * surface[:, None]
        calm = self.waves / (1 + 0.04 * surface)
        normal = ripples(at[:, 0], at[:, 2], calm, self.wave_size, self.when)
        mirrored = unit(rays - 2 * dot(rays, normal)[:, None] * normal)
        mirrored[:, 1] = np.abs(mirrored[:, 1]) + 0.002
        if reflects and self.height is not flat:
            shown = self._traced(at + np.float32([0, 0.004, 0]), mirrored, reflects=False)
        else:
            shown = self.sky.seen(mirrored)
        glint = np.maximum(dot(mirrored, self.sky.towards()), 0)
        shown = shown + self.sky.light() * (1.5 * glint**400)[:, None]
        share = 0.02 + 0.98 * (1 - np.maximum(-dot(rays, normal), 0)) ** 5
        shallow = np.exp(-np.maximum(self.water - self.height(at[:, 0], at[:, 2]), 0) * 9) * 0.6
        below = mix(np.asarray(self.deep, np.float32), np.float32([0.10, 0.22, 0.20]), shallow)
        lit = below * (self.sky.light() * max(self.sky.towards()[1], 0.05) + np.asarray(self.sky.zenith, np.float32))
        return hazed(mix(lit, shown, share), surface, rays, self.sky, self.haze)


def march(height: Height, origin: Array, rays: Array, steps: int = 230) -> Array:
    """How far each ray goes until it is below the ground; FAR where it never is."""
    distance = np.full(len(rays), FAR, np.float32)
    active, t = np.arange(len(rays)), np.full(len(rays), 0.02, np.float32)
    for _ in range(steps):
        at = origin[active] + rays[active] * t[:, None]
        above = at[:, 1] - height(at[:, 0], at[:, 2])
        done = (above < 0.0006 * t) | (t >= FAR) | ((rays[active, 1] > 0) & (at[:, 1] > 4.5))
        landed = done & (above < 0.0006 * t)
        distance[active[landed]] = t[landed]
        active, t, above = active[~done], t[~done], above[~done]
        if not len(active):
            break
        t = t + np.maximum(0.42 * above, 0.0025 * t)
    return distance


def slope(height: Height, at: Array, apart: Array) -> Array:
    """The normals of the ground, looked at as finely as the distance allows."""
    x, z = at[:, 0], at[:, 2]
    across = height(x + apart, z) - height(x - apart, z)
    along = height(x, z + apart) - height(x, z - apart)
    return unit(np.stack((-across, 2 * apart, -along), -1))


def clearance(height: Height, at: Array, sun: Array) -> Array:
    """How much of the sun is seen: 0 in the shadow of land, 1 where none is near the line to it."""
    seen, t = np.ones(len(at), np.float32), 0.04
    while t < 7:
        place = at + sun * t
        seen = np.minimum(seen, np.clip(0.5 + 14 * (place[:, 1] - height(place[:, 0], place[:, 2])) / t, 0, 1))
        t *= 1.32
    return seen


def ripples(x: Array, z: Array, steepness: Array, size: float, when: float) -> Array:
    """The normals of moving water."""

    def level(x: Array, z: Array) -> Array:
        broad = fractal(x / size + when, z / size * 0.6, 4, 5)
        return broad + 0.5 * fractal(x / size * 1.7 - when * 0.8, z / size * 2.3 + when, 4, 9)

    apart = 0.06 * size
    across = (level(x + apart, z) - level(x - apart, z)) / (2 * apart) * size
    along = (level(x, z + apart) - level(x, z - apart)) / (2 * apart) * size
    return unit(np.stack((-across * steepness, np.ones_like(x), -along * steepness), -1))


def flat(x: Array, z: Array) -> Array:
    """The bottom of the open sea."""
    return np.full_like(x, -3.0)


class Relief:
    """Heights that are computed once, on a square that repeats, and looked up between its points."""

    def __init__(self, of: Height, side: float = 24.0, points: int = 1024) -> None:
        self.scale, self.points = points / side, points
        line = (np.arange(points, dtype=np.float32) / points - 0.5) * side
        x, z = np.meshgrid(line, line, indexing="ij")
        self.heights = of(x.ravel(), z.ravel()).reshape(points, points).astype(np.float32)

    def __call__(self, x: Array, z: Array) -> Array:
        u, v = x * self.scale + self.points / 2, z * self.scale + self.points / 2
        i, j = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
        a, b = (u - i).astype(np.float32), (v - j).astype(np.float32)
        i, j = i % self.points, j % self.points
        k, m = (i + 1) % self.points, (j + 1) % self.points
        h = self.heights
        return (h[i, j] * (1 - a) + h[k, j] * a) * (1 - b) + (h[i, m] * (1 - a) + h[k, m] * a) * b


def mountains(seed: int, tall: float = 2.2, valley: float = 1.1) -> Relief:
    """Ridges around a valley along z."""

    def of(x: Array, z: Array) -> Array:
        bent = x + 0.9 * np.sin(z * 0.35)
        aside = step(0.15, 1.0, np.abs(bent) / (3.2 * valley))
        crests = ridged(x * 0.42, z * 0.42, 8, seed)
        rolling = fractal(x * 0.6, z * 0.6, 6, seed + 40)
        return tall * crests * (0.12 + 0.88 * aside) + 0.35 * rolling - 0.32

    return Relief(of)


def dunes(seed: int) -> Relief:
    """Sand with sharp crests across the wind."""

    def of(x: Array, z: Array) -> Array:
        bent = x * 0.5 + 1.3 * fractal(x * 0.25, z * 0.25, 3, seed)
        wave = np.abs((bent + 0.35 * fractal(x * 0.5, z * 0.5, 3, seed + 9)) % 1.0 - 0.62)
        crest = np.where(wave < 0.38, 1 - wave / 0.38, 0) ** 1.3
        broad = fractal(x * 0.16, z * 0.16, 3, seed + 5)
        return 0.75 * crest * (0.3 + broad) + 0.8 * broad

    return Relief(of)


def hills(seed: int, tall: float = 0.8) -> Relief:
    """Round hills with woods on them, whose trees are small and steep."""

    def of(x: Array, z: Array) -> Array:
        broad = fractal(x * 0.33, z * 0.33, 5, seed, 0.42)
        trees = smooth(x * 34, z * 34, seed + 3) * step(0.5, 0.62, fractal(x * 0.8, z * 0.8, 4, seed + 8))
        return tall * broad * 1.6 + 0.055 * trees - 0.45

    return Relief(of)
