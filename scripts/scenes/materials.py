"""What faces are made of: plaster, bricks, wood, stone, glass fronts, signs."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from scripts.scenes.noise import Array, fractal, hashed, mix, smooth, step
from scripts.scenes.sky import Colour
from scripts.scenes.solids import Material, Surface


def across(at: Array, normal: Array) -> tuple[Array, Array]:
    """Two coordinates on the face that a place lies on: along it, and up (or along z, where it lies)."""
    facing = np.abs(normal).argmax(-1)
    u = np.where(facing == 0, at[:, 2], at[:, 0])
    return u, np.where(facing == 1, at[:, 2], at[:, 1])


def plain(colour: Colour, mirror: float = 0.0, rough: float = 0.0, shine: float = 0.0, spots: float = 0.15) -> Material:
    """One colour with a few stains."""

    def of(at: Array, normal: Array) -> Surface:
        u, v = across(at, normal)
        stained = 1 - spots + 2 * spots * fractal(u * 3, v * 3, 5, 3)
        own = np.asarray(colour, np.float32) * stained[:, None]
        return Surface(own, own * shine, mirror, rough)

    return of


def bricks(colour: Colour, size: float = 0.25, seed: int = 0) -> Material:
    """Courses of bricks, each of its own shade, with mortar between."""

    def of(at: Array, normal: Array) -> Surface:
        u, v = across(at, normal)
        row = np.floor(v / size * 3).astype(np.int64)
        along = u / size + 0.5 * (row % 2)
        column = np.floor(along).astype(np.int64)
        edge = np.minimum((along - column) * 3, (v / size * 3) % 1)
        edge = np.minimum(edge, np.minimum((1 - along + column) * 3, 1 - (v / size * 3) % 1))
        shade = 0.6 + 0.6 * hashed(column, row, seed) * (0.6 + 0.4 * fractal(u * 30, v * 30, 3, seed))
        own = np.asarray(colour, np.float32) * shade[:, None]
        return Surface(mix(np.float32([0.32, 0.30, 0.27]), own, step(0.04, 0.14, edge)))

    return of


def wood(colour: Colour, plank: float = 0.22, mirror: float = 0.0, seed: int = 0) -> Material:
    """Planks with grain along them."""

    def of(at: Array, normal: Array) -> Surface:
        u, v = across(at, normal)
        board = np.floor(u / plank).astype(np.int64)
        offset = hashed(board, board, seed) * 40
        rings = smooth(u * 45 + offset, v * 2.2 + offset + 0.6 * fractal(u * 9, v * 1.5, 3, seed), seed)
        fine = fractal(u * 160, v * 6 + offset, 2, seed + 4)
        gap = step(0.0, 0.03, np.abs((u / plank) % 1 - 0.5) * -1 + 0.5)
        shade = (
            (0.55 + 0.5 * rings + 0.2 * fine) * (0.8 + 0.4 * hashed(board, board * 3, seed + 1)) * (0.35 + 0.65 * gap)
        )
        return Surface(np.asarray(colour, np.float32) * shade[:, None], 0.0, mirror, 0.03)

    return of


def tiles(one: Colour, other: Colour, size: float = 0.6, mirror: float = 0.08, rough: float = 0.01) -> Material:
    """Squares of two polished stones with veins."""

    def of(at: Array, normal: Array) -> Surface:
        u, v = across(at, normal)
        i, j = np.floor(u / size).astype(np.int64), np.floor(v / size).astype(np.int64)
        veins = 1 - np.abs(2 * fractal(u * 2.3 + i * 7.1, v * 2.3 + j * 3.3, 6, 12) - 1)
        own = mix(np.asarray(one, np.float32), np.asarray(other, np.float32), ((i + j) % 2).astype(np.float32))
        seam = np.minimum(np.minimum(u / size - i, 1 - u / size + i), np.minimum(v / size - j, 1 - v / size + j))
        shade = (0.85 + 0.3 * hashed(i, j, 5)) * (1 - 0.45 * veins**7) * (0.5 + 0.5 * step(0.004, 0.016, seam))
        return Surface(own * shade[:, None], 0.0, mirror, rough)

    return of


def asphalt(wet: float = 0.0) -> Material:
    """A road along z with a broken line, dry or with puddles."""

    def of(at: Array, normal: Array) -> Surface:
        x, z = at[:, 0], at[:, 2]
        shade = 0.05 + 0.05 * fractal(x * 40, z * 40, 3, 2) + 0.03 * fractal(x * 1.2, z * 0.5, 4, 8)
        line = (
            step(0.07, 0.05, np.abs(x)) * step(0.45, 0.5, (z / 4) % 1) * step(0.25, 0.5, fractal(x * 25, z * 25, 3, 6))
        )
        own = np.repeat((shade * (1 - 0.5 * wet) + 0.5 * line)[:, None], 3, axis=1)
        puddle = step(0.42, 0.6, fractal(x * 0.55, z * 0.3, 4, 21))
        return Surface(own, 0.0, wet * (0.06 + 0.5 * puddle), 0.02)

    return of


def pavement() -> Material:
    """Slabs of concrete."""
    return tiles((0.30, 0.29, 0.27), (0.34, 0.33, 0.31), 0.9, 0.0)


def front(
    wall: Colour, lit: float = 0.0, seed: int = 0, wide: float = 1.5, tall: float = 1.7, lamp: Colour = (1.0, 0.7, 0.35)
) -> Material:
    """The front of a house with windows in rows, of which a share is lit; roofs are plain."""

    def of(at: Array, normal: Array) -> Surface:
        u, v = across(at, normal)
        i, j = np.floor(u / wide).astype(np.int64), np.floor(v / tall).astype(np.int64)
        a, b = u / wide - i, v / tall - j
        upright = (np.abs(normal[:, 1]) < 0.5).astype(np.float32)
        inside = step(0.17, 0.19, a) * step(0.83, 0.81, a) * step(0.22, 0.24, b) * step(0.86, 0.84, b) * upright
        bars = np.minimum(np.abs(a - 0.5) / 0.02, np.abs(b - 0.6) / 0.02)
        pane = inside * step(0.6, 1.0, bars)
        stained = 0.75 + 0.35 * fractal(u * 1.3, v * 0.7, 5, seed) + 0.1 * fractal(u * 25, v * 25, 2, seed)
        sill = step(0.18, 0.2, b) * step(0.235, 0.215, b) * step(0.12, 0.14, a) * step(0.88, 0.86, a) * upright
        own = np.asarray(wall, np.float32) * (stained * (1 + 0.5 * sill) * (1 - 0.5 * (inside - pane)))[:, None]
        own = mix(own, np.float32([0.03, 0.04, 0.05]), pane)
        on = (hashed(i, j, seed + 2) < lit).astype(np.float32) * pane
        curtain = 0.4 + 0.6 * hashed(i, j, seed + 3) * (0.5 + 0.5 * smooth(u * 14, v * 0.5, seed)) + 0.5 * b
        warm = mix(np.asarray(lamp, np.float32), np.float32([0.75, 0.85, 1.0]), step(0.7, 0.72, hashed(i, j, seed + 5)))
        return Surface(own, warm * (1.6 * on * curtain)[:, None], 0.10 * pane, 0.004)

    return of


def books(seed: int = 0) -> Material:
    """Shelves full of books."""

    def of(at: Array, normal: Array) -> Surface:
        u, v = across(at, normal)
        shelf = np.floor(v / 0.36).astype(np.int64)
        along = u / 0.052 + 0.7 * hashed(shelf, shelf, seed) + 0.6 * smooth(u * 8, shelf * 3.1, seed)
        book = np.floor(along).astype(np.int64)
        tall = 0.72 + 0.22 * hashed(book, shelf, seed)
        up = v / 0.36 - shelf
        hue = np.stack([hashed(book, shelf, seed + k) for k in (1, 2, 3)], -1)
        own = (0.06 + 0.5 * hue**1.6) * (0.4 + 0.6 * step(0.0, 0.2, np.minimum(along - book, 1 - along + book)))[
            :, None
        ]
        title = step(0.45, 0.47, up) * step(0.62, 0.6, up) * (hashed(book, shelf, seed + 6) > 0.4)
        own = mix(own, np.float32([0.6, 0.5, 0.25]), title * 0.7)
        own = mix(np.float32([0.02, 0.015, 0.01]), own, step(tall, tall - 0.02, up))
        return Surface(mix(np.float32([0.22, 0.12, 0.06]), own, step(0.05, 0.07, up)))

    return of


def sign(
    lines: str, ink: Colour, paper: Colour, low: tuple[float, float], high: tuple[float, float], shine: float = 0.0
) -> Material:
    """Words on a face from one corner to the other, as (along, up); with `shine` the words are neon."""
    size = 1024, max(64, round(1024 * (high[1] - low[1]) / (high[0] - low[0])))
    sheet = Image.new("L", size)
    rows = lines.split("\n")
    for index, row in enumerate(rows):
        height = size[1] / len(rows)
        draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=height * 0.72)
        longest = draw.textlength(row, font=font)
        if longest > 0.92 * size[0]:
            font = ImageFont.load_default(size=height * 0.72 * 0.92 * size[0] / longest)
        draw.text((size[0] / 2, (index + 0.5) * height), row, fill=255, font=font, anchor="mm")
    words = np.asarray(sheet, np.float32) / 255

    def of(at: Array, normal: Array) -> Surface:
        u, v = across(at, normal)
        facing = np.abs(normal).argmax(-1)
        along = (u - low[0]) / (high[0] - low[0])
        # seen from the other side, x runs to the left
        along = np.where(normal[np.arange(len(at)), facing] * np.where(facing == 0, 1, -1) > 0, 1 - along, along)
        column = np.clip(along * size[0], 0, size[0] - 1).astype(np.int64)
        row = np.clip((1 - (v - low[1]) / (high[1] - low[1])) * size[1], 0, size[1] - 1).astype(np.int64)
        there = words[row, column]
        worn = 0.8 + 0.3 * fractal(u * 14, v * 14, 4, 9)
        own = mix(np.asarray(paper, np.float32), np.asarray(ink, np.float32), there) * worn[:, None]
        return Surface(own, np.asarray(ink, np.float32) * (shine * there)[:, None])

    return of
