"""Which scenes there are, and how each looks at the start (0) and at the end (1) of a few seconds."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

from scripts.scenes.camera import Camera, develop
from scripts.scenes.drawn import paper_hills, paper_sea, planet
from scripts.scenes.land import Ground, Land, Relief, dunes, flat, hills, mountains
from scripts.scenes.noise import Array, fractal
from scripts.scenes.sky import Sky
from scripts.scenes.town import hall, room, shop, skyline, still_life, street

Scene = Callable[[float], Image.Image]


def day(when: float, seed: int = 4, clouds: float = 0.45) -> Sky:
    """A fair day with clouds that drift."""
    return Sky((0.12, 0.28, 0.62), (0.62, 0.74, 0.88), (0.55, 0.5, 0.4), (2.6, 2.3, 1.9), clouds=clouds,
               drift=0.04 * when, seed=seed)  # fmt: skip


def evening(when: float, sun: tuple[float, float, float] = (-0.5, 0.13, 0.8)) -> Sky:
    """A low sun in warm air."""
    return Sky((0.16, 0.22, 0.45), (1.1, 0.62, 0.34), sun, (3.2, 1.7, 0.8), clouds=0.4, cloud=(0.9, 0.6, 0.5),
               drift=0.03 * when, seed=9)  # fmt: skip


def night(when: float, moon: tuple[float, float, float] = (0.25, 0.22, 0.9), stars: float = 0.35) -> Sky:
    """A clear night with a moon."""
    return Sky((0.008, 0.014, 0.035), (0.05, 0.06, 0.09), moon, (0.42, 0.46, 0.55), glow=0.5, clouds=0.3,
               cloud=(0.05, 0.055, 0.07), stars=stars, drift=0.02 * when, seed=3, disc=0.9991)  # fmt: skip


def overcast(when: float) -> Sky:
    """Heavy clouds before a storm."""
    return Sky((0.16, 0.19, 0.23), (0.50, 0.53, 0.55), (0.3, 0.35, 0.9), (0.55, 0.55, 0.55), glow=0.5, clouds=0.85,
               cloud=(0.36, 0.39, 0.42), drift=0.08 * when, seed=11)  # fmt: skip


def alpine_lake(when: float) -> Image.Image:
    land = Land(mountains(3), day(when), Ground(snow_from=1.25), water=0.05, waves=0.015, when=0.5 * when)
    return develop(land.seen(Camera((0.1 + 0.2 * when, 0.42, -6.0 + 0.7 * when), (0.0, 0.55, 0.0), 62)), 0.8)


def fjord_dusk(when: float) -> Image.Image:
    sky = evening(when, (0.25, 0.16, 0.9))
    land = Land(mountains(12, 2.6, 0.9), sky, Ground(snow_from=1.5), water=0.08, waves=0.03, haze=0.05, when=when)
    return develop(land.seen(Camera((0.3 - 0.2 * when, 0.7, -8.0 + 0.5 * when), (0.2, 0.75, 0.0), 58)), 0.75)


def dunes_evening(when: float) -> Image.Image:
    sand = Ground((0.55, 0.34, 0.16), (0.62, 0.40, 0.20), (0.5, 0.3, 0.14), steep=0.0)
    land = Land(dunes(2), evening(when), sand, haze=0.03)
    return develop(land.seen(Camera((0.5 * when, 1.6, -5 + 0.4 * when), (0.3, 0.8, 2), 60)), 0.75)


def autumn_hills(when: float) -> Image.Image:
    leaves = Ground((0.30, 0.11, 0.02), (0.34, 0.22, 0.04), (0.15, 0.12, 0.08), steep=0.35)
    land = Land(hills(6), day(when, 8, 0.55), leaves, water=-0.08, waves=0.01, haze=0.035, when=when)
    return develop(land.seen(Camera((0.2, 0.85 + 0.15 * when, -5.0 + 0.6 * when), (0.0, 0.35, 0.0), 58)), 0.85)


def snow_hills(when: float) -> Image.Image:
    white = Ground((0.72, 0.77, 0.85), (0.62, 0.68, 0.78), (0.20, 0.20, 0.22), steep=0.6)
    land = Land(hills(15, 1.0), evening(when, (0.75, 0.22, 0.55)), white, haze=0.035)
    return develop(land.seen(Camera((0.4 * when, 1.25, -4.0 + 0.5 * when), (-0.3, 0.5, 1.0), 60)), 0.6)


def moonlit_sea(when: float) -> Image.Image:
    land = Land(flat, night(when), water=0.0, waves=0.10, wave_size=0.35, haze=0.012, when=when)
    return develop(land.seen(Camera((0, 0.42, -5), (0.6, 0.62, 0.5), 60)), 1.6)


def storm_sea(when: float) -> Image.Image:
    land = Land(
        flat, overcast(when), water=0.0, waves=0.34, wave_size=1.1, deep=(0.02, 0.06, 0.07), haze=0.03, when=1.3 * when
    )
    return develop(land.seen(Camera((0, 0.5 + 0.06 * when, -5), (0.1 * when, 0.44, -2), 64, 0.05 - 0.09 * when)), 0.9)


def islands(when: float) -> Image.Image:
    sand = Ground((0.05, 0.12, 0.03), (0.10, 0.17, 0.05), (0.55, 0.47, 0.33), steep=0.6)

    def of(x: Array, z: Array) -> Array:
        return 1.15 * fractal(x * 0.42, z * 0.42, 8, 21, 0.48) - 0.62

    land = Land(Relief(of), day(when, 2, 0.5), sand, water=0.0, waves=0.02, wave_size=0.12,
                deep=(0.005, 0.11, 0.16), haze=0.014, when=when)  # fmt: skip
    return develop(land.seen(Camera((0.5 * when, 2.1, -5.5 + 0.7 * when), (0.1, 0.0, 0.6), 58)), 0.85)


def cloud_sea(when: float) -> Image.Image:
    white = Ground((0.86, 0.87, 0.92), (0.90, 0.90, 0.93), (0.80, 0.82, 0.88), steep=0.0)

    def of(x: Array, z: Array) -> Array:
        return 0.9 * fractal(x * 0.5 + 0.1 * when, z * 0.5, 7, 33, 0.44) ** 1.4

    sky = Sky((0.10, 0.22, 0.55), (1.0, 0.78, 0.62), (0.5, 0.18, 0.8), (2.4, 1.7, 1.2), clouds=0.0)
    land = Land(Relief(of), sky, white, haze=0.025)
    return develop(land.seen(Camera((0, 1.15, -6 + 0.8 * when), (0.3, 0.62, 0), 62)), 0.62)


def street_day(when: float) -> Image.Image:
    sky = Sky((0.12, 0.28, 0.62), (0.62, 0.74, 0.88), (0.55, 0.6, -0.4), (2.6, 2.3, 1.9), clouds=0.45, seed=4)
    return develop(street(sky, when, 0.0, 0.0, 3, False, 0.5, 0.004), 0.8)


def street_night(when: float) -> Image.Image:
    return develop(street(night(when, (0.3, 0.5, 0.8)), when, 0.45, 1.0, 5, True, 0.03, 0.004))


def skyline_dusk(when: float) -> Image.Image:
    sky = Sky((0.08, 0.12, 0.3), (0.75, 0.40, 0.30), (-0.75, 0.16, 0.45), (2.4, 1.2, 0.6), clouds=0.4,
              cloud=(0.5, 0.3, 0.3), drift=0.02 * when, seed=7)  # fmt: skip
    return develop(skyline(sky, when, 0.35, 3), 0.95)


def room_day(when: float) -> Image.Image:
    sky = Sky((0.3, 0.5, 0.8), (1.2, 1.1, 0.95), (-0.8, 0.5, 0.1), (4.2, 3.1, 2.0), clouds=0.4, seed=5)
    return develop(room(sky, when, lamp=False), 0.95)


def room_night(when: float) -> Image.Image:
    return develop(room(night(when), when, lamp=True), 1.1)


def table_top(when: float) -> Image.Image:
    sky = Sky((0.16, 0.26, 0.5), (1.0, 0.7, 0.45), (-0.8, 0.5, 0.1), (3.2, 2.2, 1.3), clouds=0.4, seed=5)
    return develop(still_life(sky, when), 0.9)


def column_hall(when: float) -> Image.Image:
    sky = Sky((0.2, 0.35, 0.6), (0.9, 0.85, 0.8), (0.8, 0.55, 0.35), (4.0, 3.4, 2.6), clouds=0.2)
    return develop(hall(sky, when, 3), 0.8)


def bakery(when: float) -> Image.Image:
    sky = Sky((0.12, 0.28, 0.62), (0.62, 0.74, 0.88), (0.55, 0.6, -0.4), (2.6, 2.3, 1.9), clouds=0.45, seed=4)
    return develop(shop(sky, when), 0.85)


def blue_planet(when: float) -> Image.Image:
    space = Sky(
        (0, 0, 0.002), (0, 0, 0.002), (0.75, 0.25, -0.6), (2.6, 2.5, 2.3), glow=0.0, clouds=0.0, stars=0.9, seed=6
    )
    return develop(planet(space, when, 14), 0.55)


def paper_forest(when: float) -> Image.Image:
    colours = ((0.95, 0.75, 0.50), (0.45, 0.60, 0.70), (0.62, 0.60, 0.58), (0.42, 0.50, 0.48), (0.50, 0.36, 0.28),
               (0.22, 0.36, 0.30), (0.40, 0.20, 0.16), (0.10, 0.20, 0.18))  # fmt: skip
    return develop(paper_hills(colours, when, 5, (1.2, 0.72, 0.11)))


def paper_boat(when: float) -> Image.Image:
    colours = ((0.98, 0.80, 0.55), (0.35, 0.55, 0.75), (0.45, 0.62, 0.70), (0.28, 0.50, 0.62), (0.16, 0.38, 0.55),
               (0.10, 0.27, 0.45), (0.05, 0.17, 0.33))  # fmt: skip
    return develop(paper_sea(colours, when, 8))


CALIB: tuple[Scene, ...] = (
    alpine_lake, street_night, bakery, moonlit_sea, paper_forest, street_day, dunes_evening, room_day, storm_sea,
    skyline_dusk, blue_planet, autumn_hills, table_top, islands, cloud_sea,
)  # fmt: skip
EVAL: tuple[Scene, ...] = (fjord_dusk, room_night, paper_boat, column_hall, snow_hills)
