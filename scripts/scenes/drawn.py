"""Pictures that are drawn rather than seen: layers of cut paper, and a planet as an astronomer paints it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scripts.scenes.camera import FINER, HEIGHT, WIDTH, Camera, blurred, dot, unit
from scripts.scenes.noise import Array, fractal, mix, ridged, step
from scripts.scenes.sky import Colour, Sky

ROWS, COLUMNS = round(HEIGHT * FINER), round(WIDTH * FINER)


def sheet() -> tuple[Array, Array]:
    """The places on a sheet: x from 0 to its width, y from 0 at its foot to 1 at its head."""
    y, x = np.mgrid[ROWS - 1 : -1 : -1, 0:COLUMNS].astype(np.float32)
    return x / ROWS, y / ROWS


def paper_hills(colours: Sequence[Colour], when: float, seed: int, sun: tuple[float, float, float]) -> Array:
    """Hills and trees of coloured paper, one sheet behind the other, each with its shadow on the next."""
    x, y = sheet()
    grain = 0.9 + 0.16 * fractal(x * 260, y * 260, 3, 1) + 0.06 * fractal(x * 9, y * 9, 3, 2)
    picture = mix(np.asarray(colours[0], np.float32), np.asarray(colours[1], np.float32), y)
    rays = np.cos(np.arctan2(y - sun[1], x - sun[0]) * 18)
    far = np.hypot(x - sun[0], y - sun[1])
    picture = picture + (0.10 * step(0.0, 0.4, rays) * np.exp(-far * 1.6))[..., None] * np.float32([1, 0.9, 0.6])
    picture = _laid(picture, step(0.002, -0.002, far - sun[2]), np.float32([0.95, 0.72, 0.30]), grain)
    for index, colour in enumerate(colours[2:]):
        near = (index + 1) / len(colours[2:])
        along = x * (1.4 + 0.5 * index) + when * 0.25 * near + index * 11.3
        crest = 0.62 - 0.53 * near + 0.30 * (fractal(along, np.zeros_like(x), 5, seed + index, 0.42) - 0.4)
        if index % 2:
            crest = crest + _trees(along * (9 - index), seed + index) * 0.055 * (0.6 + near)
        picture = _laid(picture, step(-0.0015, 0.0015, crest - y), np.asarray(colour, np.float32), grain)
    return picture * 0.62


def paper_sea(colours: Sequence[Colour], when: float, seed: int) -> Array:
    """Waves of coloured paper with a boat among them."""
    x, y = sheet()
    grain = 0.9 + 0.16 * fractal(x * 260, y * 260, 3, 1) + 0.06 * fractal(x * 9, y * 9, 3, 2)
    picture = mix(np.asarray(colours[0], np.float32), np.asarray(colours[1], np.float32), y)
    for cloud, (left, high) in enumerate(((0.3, 0.80), (1.15, 0.86), (0.75, 0.70))):
        place = x - left - 0.05 * when * (cloud + 1)
        puff = np.hypot(place, (y - high) * 2.1) - 0.10 - 0.05 * np.abs(np.sin(place * 26 + cloud))
        picture = _laid(picture, step(0.002, -0.002, puff), np.float32([0.92, 0.90, 0.86]), grain)
    for index, colour in enumerate(colours[2:]):
        near = (index + 1) / len(colours[2:])
        if index == 2:
            picture = _boat(picture, x - 0.78 - 0.1 * when, y - 0.40 - 0.01 * np.sin(6 * when), grain)
        phase = x * (15 - 2.2 * index) + index * 2.1 + when * (2 + index)
        crest = 0.50 - 0.46 * near + 0.035 * (0.5 + near) * (1 - np.abs(np.sin(phase / 2))) * 2
        crest = crest + 0.02 * fractal(x * 3, np.full_like(x, seed), 3, seed + index)
        picture = _laid(picture, step(-0.0015, 0.0015, crest - y), np.asarray(colour, np.float32), grain)
    return picture * 0.62


def _boat(picture: Array, x: Array, y: Array, grain: Array) -> Array:
    hull = np.maximum(np.maximum(-y - 0.03, y - 0.05), np.abs(x) - 0.17 - 0.9 * y)
    mast = np.maximum(np.abs(x) - 0.004, np.abs(y - 0.24) - 0.2)
    sail = np.maximum(np.maximum(x + 0.012, 0.08 - y), -x - 0.17 * (0.44 - y) / 0.36)
    jib = np.maximum(np.maximum(-x + 0.012, 0.10 - y), x - 0.12 * (0.38 - y) / 0.28)
    for shape, colour in (
        (mast, (0.2, 0.12, 0.07)),
        (sail, (0.95, 0.92, 0.85)),
        (jib, (0.86, 0.25, 0.16)),
        (hull, (0.5, 0.16, 0.1)),
    ):
        picture = _laid(picture, step(0.0015, -0.0015, shape), np.float32(colour), grain)
    return picture


def _trees(along: Array, seed: int) -> Array:
    """Pointed firs beside one another, some missing."""
    place = np.floor(along)
    tall = np.maximum(fractal(place * 0.37, place * 0.0, 3, seed) - 0.35, 0) * 3
    branches = 0.82 + 0.18 * np.abs(np.sin(along * 3.1416 * 6))
    return np.maximum(1 - 2.2 * np.abs(along - place - 0.5), 0) * tall * branches


def _laid(picture: Array, there: Array, colour: Array, grain: Array) -> Array:
    """A sheet of paper on what lies below, with its soft shadow to the lower right."""
    shadow = _moved(blurred(there, 7 * FINER), round(6 * FINER), round(5 * FINER))
    edge = np.clip(there - _moved(there, 2, 2), 0, 1)
    dark = picture * (1 - 0.5 * np.clip(shadow - there, 0, 1))[..., None]
    return mix(dark, colour * (grain + 0.22 * edge)[..., None], there)


def _moved(image: Array, down: int, right: int) -> Array:
    """The image further down and to the right; what comes in is as its border."""
    rows, columns = image.shape
    return np.pad(image, ((down, 0), (right, 0)), mode="edge")[:rows, :columns]


def planet(sky: Sky, when: float, seed: int) -> Array:
    """A planet with land, sea, clouds and air, and a small moon before the stars."""
    camera = Camera((0, 0.35, -3.1 + 0.25 * when), (0.55 - 0.1 * when, 0.1, 0), 52)
    rays, eye = camera.rays(), np.asarray(camera.eye, np.float32)
    light = sky.seen(rays)
    light = _ball(light, rays, eye, np.float32([0, 0, 0]), 1.0, sky, seed, 0.25 * when)
    return _ball(light, rays, eye, np.float32([-1.25 + 0.3 * when, 0.55, -0.6]), 0.16, sky, seed + 50, when, moon=True)


def _ball(
    light: Array,
    rays: Array,
    eye: Array,
    centre: Array,
    radius: float,
    sky: Sky,
    seed: int,
    turn: float,
    moon: bool = False,
) -> Array:
    away = eye - centre
    b = dot(rays, away)
    missed = float(away @ away) - b * b  # squared, of the line from the centre
    sun = sky.towards()
    if not moon:  # air around it, lit where the sun stands
        rim = unit(away + rays * -b[..., None])
        glow = np.exp(-np.maximum(np.sqrt(missed) - radius, 0) / 0.035) * np.clip(0.25 + dot(rim, sun), 0, 1)
        light = light + glow[..., None] * np.float32([0.20, 0.45, 1.0]) * 0.9
    hit = (missed < radius**2) & (b < 0)
    at = away + rays[hit] * (-b[hit] - np.sqrt(radius**2 - missed[hit]))[:, None]
    normal = at / radius
    across, up = np.arctan2(normal[:, 0], -normal[:, 2]) + turn, np.arcsin(np.clip(normal[:, 1], -1, 1))
    day = np.clip(dot(normal, sun), 0, 1)
    if moon:
        own = np.float32([0.5, 0.48, 0.45]) * (0.35 + 0.9 * ridged(across * 2, up * 2, 6, seed))[:, None]
        light[hit] = own * (2.6 * day + 0.01)[:, None]
        return light
    rough = fractal(across * 1.6, up * 2.2, 8, seed, 0.55)
    land = step(0.50, 0.53, rough)
    green = mix(
        np.float32([0.05, 0.13, 0.03]),
        np.float32([0.34, 0.25, 0.13]),
        step(0.40, 0.62, fractal(across * 3, up * 3, 6, seed + 9)),
    )
    own = mix(np.float32([0.008, 0.035, 0.10]), green, land)
    own = mix(own, np.float32([0.8, 0.85, 0.9]), step(1.05, 1.25, np.abs(up) + 0.3 * rough))
    swirl = fractal(across * 1.3 + 0.8 * rough, up * 3, 4, seed + 21)
    clouds = step(0.50, 0.72, fractal(across * 2.6 + 2.5 * swirl + 0.15 * turn, up * 5 + 2 * swirl, 8, seed + 30, 0.58))
    own = mix(own, np.float32([0.85, 0.87, 0.9]), clouds)
    mirrored = rays[hit] - 2 * dot(rays[hit], normal)[:, None] * normal
    glint = np.maximum(dot(mirrored, sun), 0) ** 26 * (1 - land) * (1 - clouds)
    towns = (1 - step(0.0, 0.12, dot(normal, sun))) * land * step(0.66, 0.8, fractal(across * 40, up * 40, 3, 77))
    edge = (1 - np.clip(-dot(rays[hit], normal), 0, 1)) ** 3
    light[hit] = (
        own * (2.8 * day)[:, None] + (0.9 * glint * day)[:, None] + towns[:, None] * np.float32([1.0, 0.65, 0.25]) * 0.5
    )
    light[hit] += (edge * np.clip(0.2 + dot(normal, sun), 0, 1))[:, None] * np.float32([0.25, 0.5, 1.0]) * 1.3
    return light
