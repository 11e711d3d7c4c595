"""Streets, rooms and halls: stages that are furnished by hand."""

from __future__ import annotations

import numpy as np

from scripts.scenes.camera import Camera
from scripts.scenes.materials import asphalt, books, bricks, front, pavement, plain, sign, tiles, wood
from scripts.scenes.noise import Array
from scripts.scenes.sky import Sky
from scripts.scenes.solids import Ball, Box, Lamp, Stage

Things = list[Box | Ball]
WALLS = ((0.50, 0.40, 0.30), (0.42, 0.20, 0.14), (0.45, 0.44, 0.42), (0.55, 0.48, 0.33), (0.30, 0.33, 0.38))


def car(x: float, z: float, colour: tuple[float, float, float], lights: float = 0.0) -> Things:
    """A parked car, along z."""
    paint, glass, tyre = plain(colour, 0.08, 0.01), plain((0.02, 0.03, 0.04), 0.12), plain((0.015, 0.015, 0.015))
    wheels = [Ball((x + a, 0.33, z + b), 0.33, tyre) for a in (-0.72, 0.72) for b in (-1.3, 1.3)]
    front_light = plain((1.0, 0.9, 0.7), shine=lights)
    return [
        Box((x - 0.85, 0.3, z - 2.1), (x + 0.85, 0.85, z + 2.1), paint),
        Ball((x, 0.85, z), 0.86, paint, 0.35),
        Box((x - 0.72, 0.85, z - 1.2), (x + 0.72, 1.34, z + 1.3), glass),
        Box((x - 0.7, 1.34, z - 1.1), (x + 0.7, 1.42, z + 1.2), paint),
        Box((x - 0.75, 0.55, z - 2.13), (x - 0.4, 0.72, z - 2.1), front_light),
        Box((x + 0.4, 0.55, z - 2.13), (x + 0.75, 0.72, z - 2.1), front_light),
        *wheels,
    ]


def houses(side: float, seed: int, lit: float, tall: float = 9.0) -> Things:
    """One side of a street, house beside house."""
    chance, z, found = np.random.default_rng(seed), -6.0, []
    while z < 75:
        deep, height = chance.uniform(6, 11), tall * chance.uniform(0.7, 1.8)
        wall = WALLS[chance.integers(len(WALLS))]
        material = bricks(wall, 0.5, seed) if chance.random() < 0.2 else front(wall, lit, int(chance.integers(99)))
        inner, outer = sorted((side * 5.5, side * 14))
        found.append(Box((inner, 0.12, z), (outer, height, z + deep), material))
        ledge_in, ledge_out = sorted((side * 5.3, side * 14))
        found.append(Box((ledge_in, height, z), (ledge_out, height + 0.35, z + deep), plain((0.35, 0.33, 0.3))))
        z += deep
    return found


def street(sky: Sky, when: float, lit: float, wet: float, seed: int, neon: bool, ambient: float, haze: float) -> Array:
    """A street between houses that a camera drives along."""
    things: Things = [Box((-40, -1, -20), (40, 0, 120), asphalt(wet))]
    things += [Box((-5.5, 0, -20), (-3.4, 0.13, 120), pavement()), Box((3.4, 0, -20), (5.5, 0.13, 120), pavement())]
    things += houses(-1, seed, lit) + houses(1, seed + 1, lit)
    for index, z in enumerate((6.0, 13.0, 24.0, 33.0)):
        side = (-2.4, 2.4)[index % 2]
        things += car(
            side, z, ((0.5, 0.05, 0.04), (0.06, 0.12, 0.3), (0.5, 0.5, 0.5), (0.7, 0.5, 0.05))[index], lit * 6
        )
    lamps = []
    for z in (9.0, 22.0, 38.0):
        for side in (-1, 1):
            things.append(
                Box((side * 3.7 - 0.05, 0, z - 0.05), (side * 3.7 + 0.05, 5.0, z + 0.05), plain((0.04, 0.04, 0.05)))
            )
            things.append(Ball((side * 3.5, 5.0, z), 0.22, plain((1.0, 0.75, 0.45), shine=7 * lit)))
            if lit > 0.2 and z < 30:
                lamps.append(Lamp((side * 3.3, 4.6, z), (16, 11, 6)))
    if neon:
        for index, (words, colour) in enumerate((("NOODLES", (1.0, 0.12, 0.25)), ("HOTEL", (0.1, 0.7, 1.0)))):
            side, z = (1, -1)[index], (11.0, 15.0)[index]
            low, high = sorted((side * 3.9, side * 5.4))
            text = sign("\n".join(words), colour, (0.02, 0.02, 0.03), (low, 2.6), (high, 8.2), 4.0)
            things.append(Box((low, 2.6, z), (high, 8.2, z + 0.2), text))
            lamps.append(Lamp((side * 4.4, 5.0, z - 1.0), tuple(9 * c for c in colour)))
    eye = (-0.5 + 0.4 * when, 1.7, -4.0 + 2.6 * when)
    stage = Stage(things, sky, lamps, (ambient, ambient, ambient * 1.15), haze, samples=3)
    return stage.seen(Camera(eye, (0.4, 2.5, 30.0), 66))


def skyline(sky: Sky, when: float, lit: float, seed: int) -> Array:
    """Towers of a city from the air, beside a river."""
    chance, things = np.random.default_rng(seed), [Box((-200, -1, -50), (200, 0, 300), plain((0.08, 0.09, 0.08)))]
    things.append(Box((-14, 0, -50), (6, 0.02, 300), plain((0.02, 0.04, 0.06), 0.25, 0.03)))
    for row in range(9):
        for column in range(-6, 7):
            x, z = column * 13 + chance.uniform(-2, 2), 18 + row * 14 + chance.uniform(-2, 2)
            if -22 < x < 10:
                continue
            wide, deep = chance.uniform(3, 5), chance.uniform(3, 5)
            height = 6 + chance.gamma(1.6, 7.0) * np.exp(-((row - 4) ** 2) / 9)
            material = front(WALLS[chance.integers(len(WALLS))], lit, int(chance.integers(99)), 1.1, 1.5)
            things.append(Box((x - wide, 0, z - deep), (x + wide, height, z + deep), material))
            if height > 22:
                things.append(
                    Box((x - wide / 2, height, z - deep / 2), (x + wide / 2, height + 4, z + deep / 2), material)
                )
    stage = Stage(things, sky, (), (0.20, 0.22, 0.30), 0.0045, samples=2)
    return stage.seen(Camera((-4 + 4 * when, 26 - 2 * when, -22 + 7 * when), (0, 8, 60), 62))


def room(sky: Sky, when: float, lamp: bool) -> Array:
    """A living room: the sun through a window, or a lamp at night."""
    wall, white = plain((0.62, 0.58, 0.50), spots=0.05), plain((0.75, 0.74, 0.70), spots=0.04)
    oak, dark = wood((0.45, 0.26, 0.12), 0.14, 0.03), wood((0.22, 0.11, 0.05), 0.3)
    things: Things = [
        Box((-3, -0.1, -3.5), (3, 0, 4), oak),
        Box((-3, 2.7, -3.5), (3, 2.8, 4), white),
        Box((-3, 0, 4), (3, 2.7, 4.1), wall),
        Box((3, 0, -3.5), (3.1, 2.7, 4), wall),
        Box((-3.1, 0, -3.5), (-3, 0.9, 4), wall),
        Box((-3.1, 2.3, -3.5), (-3, 2.7, 4), wall),
        Box((-3.1, 0.9, -3.5), (-3, 2.3, 0.4), wall),
        Box((-3.1, 0.9, 2.4), (-3, 2.3, 4), wall),
        Box((-3.08, 0.9, 1.36), (-3.02, 2.3, 1.44), white),
        Box((-3.08, 1.58, 0.4), (-3.02, 1.64, 2.4), white),
        Box((0.2, 0, 3.62), (2.7, 2.2, 4), books(4)),
        Box(
            (-2.2, 1.1, 3.95),
            (-0.7, 2.1, 4),
            sign("TUESDAY\nMARKET", (0.05, 0.15, 0.3), (0.8, 0.7, 0.5), (-2.2, 1.1), (-0.7, 2.1)),
        ),
        Box((-1.2, 0.002, 0.2), (1.6, 0.02, 2.6), tiles((0.35, 0.07, 0.06), (0.08, 0.10, 0.22), 0.28, 0.0)),
        Box((-0.7, 0.68, 0.8), (1.1, 0.74, 1.9), dark),
        *[Box((x, 0, z), (x + 0.07, 0.68, z + 0.07), dark) for x in (-0.65, 0.98) for z in (0.85, 1.78)],
        Box((1.5, 0.0, 0.9), (2.5, 0.45, 2.5), plain((0.10, 0.20, 0.18), spots=0.25)),
        Box((2.3, 0.45, 0.9), (2.6, 1.0, 2.5), plain((0.10, 0.20, 0.18), spots=0.25)),
        Ball((0.05, 0.83, 1.3), 0.09, plain((0.65, 0.06, 0.03), 0.05, 0.02)),
        Ball((0.2, 0.82, 1.18), 0.08, plain((0.70, 0.32, 0.02), 0.05, 0.03)),
        Ball((0.7, 0.86, 1.4), 0.12, plain((0.55, 0.62, 0.66), 0.35, 0.01)),
        Box((-0.35, 0.74, 1.25), (-0.05, 0.79, 1.5), plain((0.10, 0.16, 0.35))),
        Box((-0.33, 0.79, 1.27), (-0.04, 0.83, 1.5), plain((0.45, 0.40, 0.30))),
    ]
    lamps = []
    if lamp:
        things.append(Ball((-2.3, 1.55, 3.2), 0.2, plain((1.0, 0.72, 0.4), shine=4)))
        things.append(Box((-2.33, 0, 3.17), (-2.27, 1.4, 3.23), plain((0.05, 0.05, 0.05))))
        lamps = [Lamp((-2.3, 1.55, 3.2), (5.5, 3.6, 1.8)), Lamp((2.2, 2.4, 0.2), (1.0, 0.8, 0.55))]
    ambient = (0.05, 0.045, 0.045) if lamp else (0.50, 0.47, 0.42)
    stage = Stage(things, sky, lamps, ambient, soft=0.012, samples=12)
    return stage.seen(Camera((0.9 - 0.7 * when, 1.5, -2.9 + 0.6 * when), (-0.2, 1.05, 2.2), 70))


def still_life(sky: Sky, when: float) -> Array:
    """Balls of glass, metal and clay on a wooden table before bricks."""
    things: Things = [
        Box((-4, -0.2, -2), (4, 0, 2.6), wood((0.40, 0.22, 0.10), 0.5, 0.05, 3)),
        Box((-6, -2, 2.6), (6, 5, 3), bricks((0.40, 0.17, 0.11), 0.6, 2)),
        Ball((-1.1, 0.62, 0.7), 0.62, plain((0.85, 0.83, 0.80), 0.75, 0.0, spots=0.02)),
        Ball((0.35, 0.45, 0.1), 0.45, plain((0.50, 0.14, 0.07), 0.04, 0.02, spots=0.35)),
        Ball((1.5, 0.55, 0.9), 0.55, plain((0.05, 0.25, 0.30), 0.12, 0.0, spots=0.3)),
        Ball((0.95 - 0.5 * when, 0.2, -0.55), 0.2, plain((0.80, 0.55, 0.12), 0.55, 0.02, spots=0.05)),
        Ball((-0.35, 0.16, -0.7), 0.16, plain((0.70, 0.70, 0.66), 0.03, spots=0.4)),
        Box((-2.6, 0, 0.4), (-2.0, 0.9, 1.0), wood((0.5, 0.35, 0.2), 0.2, 0, 7)),
        Box((-2.55, 0.9, 0.45), (-2.05, 1.0, 0.95), plain((0.12, 0.2, 0.1))),
        Box((2.2, 0, 0.2), (3.0, 0.3, 1.2), books(9)),
    ]
    lamps = [Lamp((2.4, 3.2, -2.2), (9, 7.5, 6)), Lamp((-3.0, 2.0, -1.5), (1.5, 2.2, 3.2))]
    stage = Stage(things, sky, lamps, (0.16, 0.16, 0.18), samples=4)
    return stage.seen(Camera((-0.6 + 1.2 * when, 1.25, -3.4), (0.1, 0.45, 0.6), 52))


def hall(sky: Sky, when: float, seed: int) -> Array:
    """A hall of columns with a polished floor, light falling in from one side."""
    marble = plain((0.62, 0.57, 0.50), 0.02, spots=0.25)
    things: Things = [
        Box((-5, -0.1, -6), (5, 0, 40), tiles((0.62, 0.58, 0.52), (0.10, 0.09, 0.09), 1.0, 0.10, 0.006)),
        Box((-5, 6, -6), (5, 6.4, 40), plain((0.5, 0.45, 0.38))),
        Box((-5.4, 0, -6), (-5, 6, 40), bricks((0.5, 0.42, 0.32), 1.2, seed)),
        Box((-5, 0, 40), (5, 6, 40.4), marble),
    ]
    for z in range(-4, 40, 4):
        for x in (-2.8, 2.8, 4.8):
            things += [
                Box((x - 0.42, 0, z - 0.42), (x + 0.42, 0.35, z + 0.42), marble),
                Box((x - 0.27, 0.35, z - 0.27), (x + 0.27, 5.3, z + 0.27), marble),
                Box((x - 0.45, 5.3, z - 0.45), (x + 0.45, 6, z + 0.45), marble),
            ]
    things.append(Ball((0, 1.1, 16), 1.1, plain((0.75, 0.5, 0.2), 0.5, 0.02)))
    stage = Stage(things, sky, (), (0.36, 0.32, 0.27), 0.004, samples=4)
    return stage.seen(Camera((-0.9 + 0.5 * when, 1.7, -4.5 + 2.0 * when), (0.4, 2.0, 12), 68))


def shop(sky: Sky, when: float) -> Array:
    """A shop front with words on it, close by."""
    words = sign("MORNING BREAD", (0.85, 0.75, 0.45), (0.03, 0.10, 0.07), (-2.4, 2.5), (2.4, 3.2))
    board = sign(
        "SOUP OF THE DAY\ntomato 4.50\nleek 4.20", (0.8, 0.8, 0.75), (0.03, 0.03, 0.03), (-2.9, 0.15), (-2.0, 1.3)
    )
    frame = plain((0.04, 0.14, 0.10), 0.03)
    things: Things = [
        Box((-9, -0.1, -8), (9, 0, 1), pavement()),
        Box((-9, 3.3, 0), (9, 7, 0.6), bricks((0.42, 0.19, 0.13), 0.3, 5)),
        Box((-9, 0, 0), (-2.6, 3.3, 0.6), bricks((0.42, 0.19, 0.13), 0.3, 5)),
        Box((2.6, 0, 0), (9, 3.3, 0.6), bricks((0.42, 0.19, 0.13), 0.3, 5)),
        Box((-2.6, 2.4, -0.12), (2.6, 3.3, 0.5), frame),
        Box((-2.4, 2.5, -0.16), (2.4, 3.2, -0.12), words),
        Box((-2.6, 0, -0.05), (-0.2, 0.8, 0.4), frame),
        Box((-2.5, 0.8, 0.35), (-0.2, 2.4, 0.4), plain((0.05, 0.06, 0.06), 0.25)),
        Box((0.0, 0, 0.1), (1.1, 2.3, 0.2), wood((0.16, 0.30, 0.22), 0.18, 0.02)),
        Box((1.2, 0.8, 0.35), (2.5, 2.4, 0.4), plain((0.05, 0.06, 0.06), 0.25)),
        Box((1.2, 0, -0.05), (2.6, 0.8, 0.4), frame),
        Box((-2.9, 0.15, -1.0), (-2.0, 1.3, -0.95), board),
        Box((-2.95, 0, -0.95), (-1.95, 1.35, -0.9), wood((0.3, 0.18, 0.1))),
        *[
            Ball((x, 0.98, 0.05), 0.14, plain((0.55, 0.33, 0.12), spots=0.4), 0.6)
            for x in (-2.2, -1.8, -1.4, -1.0, -0.6)
        ],
        *[
            Ball((3.3 + 0.16 * i, 0.75 + 0.12 * (i % 3), -0.5), 0.28, plain((0.06, 0.18, 0.04), spots=0.5))
            for i in range(5)
        ],
        Box((3.2, 0, -0.75), (4.1, 0.55, -0.25), plain((0.35, 0.16, 0.09))),
    ]
    stage = Stage(things, sky, [Lamp((-1.3, 2.2, -0.4), (0.8, 0.6, 0.35))], (0.38, 0.40, 0.45), samples=3)
    return stage.seen(Camera((-1.6 + 1.4 * when, 1.6, -6.0 + 0.6 * when), (-0.3, 1.8, 0), 60))
