"""Things with faces and edges: boxes and balls on a floor, lit by a sun, by lamps and by what shines itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scripts.scenes.camera import Camera, dot, unit
from scripts.scenes.noise import Array
from scripts.scenes.sky import Colour, Sky, hazed

FAR = np.float32(1e4)
AT_ONCE = 16384  # rays
SHADE = 0.35  # what is nearer to a lamp than this is its shade, and lets its light through


@dataclass(frozen=True)
class Surface:
    """What a face looks like where it is hit: its colour, the light that it gives, how much of it is a mirror."""

    colour: Array  # (points, 3)
    shine: Array | float = 0.0  # (points, 3)
    mirror: Array | float = 0.0  # (points,), seen straight on
    rough: float = 0.0  # of the mirror


Material = Callable[[Array, Array], Surface]  # of places and normals


@dataclass(frozen=True)
class Box:
    """From one corner to the other, along the axes."""

    low: Sequence[float]
    high: Sequence[float]
    material: Material

    def hit(self, origin: Array, inverse: Array) -> Array:
        """How far each ray goes until it enters; FAR where it does not. Rays are (3, rays): it is the fastest."""
        near, far = np.float32(1e-3), FAR
        for axis in range(3):
            one = (np.float32(self.low[axis]) - origin[axis]) * inverse[axis]
            other = (np.float32(self.high[axis]) - origin[axis]) * inverse[axis]
            near, far = np.maximum(near, np.minimum(one, other)), np.minimum(far, np.maximum(one, other))
        return np.where((near < far) & (near > 1e-3), near, FAR)

    def normal(self, at: Array) -> Array:
        """That of the face which a place lies on."""
        centre, half = (np.add(self.low, self.high) / 2), np.subtract(self.high, self.low) / 2
        place = (at - centre) / half
        axis = np.abs(place).argmax(-1)
        found = np.zeros_like(at)
        rows = np.arange(len(at))
        found[rows, axis] = np.sign(place[rows, axis])
        return found


@dataclass(frozen=True)
class Ball:
    """A sphere, or with `flat` an ellipsoid that is so much lower than wide."""

    centre: Sequence[float]
    radius: float
    material: Material
    flat: float = 1.0

    def hit(self, origin: Array, inverse: Array) -> Array:
        """How far each ray goes until it enters; FAR where it does not."""
        a = b = np.float32(0)
        c = np.float32(-(self.radius**2))
        for axis, squeeze in enumerate((1, 1 / self.flat, 1)):
            o = (origin[axis] - np.float32(self.centre[axis])) * np.float32(squeeze)
            d = np.float32(squeeze) / inverse[axis]
            a, b, c = a + d * d, b + o * d, c + o * o
        root = b * b - a * c
        near = (-b - np.sqrt(np.maximum(root, 0))) / a
        return np.where((root > 0) & (near > 1e-3), near, FAR)

    def normal(self, at: Array) -> Array:
        """That of a place on it."""
        return unit((at - np.asarray(self.centre, np.float32)) * np.float32([1, 1 / self.flat**2, 1]))


@dataclass(frozen=True)
class Lamp:
    """A light at a place."""

    place: Sequence[float]
    light: Colour


@dataclass(frozen=True)
class Stage:
    """Things, the sky around them, and lamps; the sun casts soft shadows, corners are darker."""

    things: Sequence[Box | Ball]
    sky: Sky
    lamps: Sequence[Lamp] = ()
    ambient: Colour = (0.3, 0.3, 0.3)
    haze: float = 0.0
    soft: float = 0.02  # radius of the sun
    seed: int = 0
    samples: int = 2
    chance: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))

    def seen(self, camera: Camera) -> Array:
        """The light that a camera sees."""
        rays = camera.rays()
        origin = np.broadcast_to(np.asarray(camera.eye, np.float32), rays.shape)
        return self._traced(origin.reshape(-1, 3), rays.reshape(-1, 3), bounces=2).reshape(rays.shape)

    def _traced(self, origin: Array, rays: Array, bounces: int) -> Array:
        distance, which = self._nearest(origin, rays)
        colour = self.sky.seen(rays, disc=bounces == 2)
        here = np.flatnonzero(which >= 0)
        if len(here):
            colour[here] = self._shaded(which[here], origin[here], rays[here], distance[here], bounces)
        return colour

    def _nearest(self, origin: Array, rays: Array) -> tuple[Array, NDArray[np.int64]]:
        """How far it is to the first thing on each ray, and which that is."""
        distance, which = np.full(len(rays), FAR, np.float32), np.full(len(rays), -1)
        for some, starts, inverse in _pieces(origin, rays):
            for index, thing in enumerate(self.things):
                found = thing.hit(starts, inverse)
                closer = found < distance[some]
                distance[some][closer], which[some][closer] = found[closer], index
        return distance, which

    def _blocked(self, at: Array, towards: Array, within: Array | float) -> Array:
        """1 where something stands between a place and what it looks to, else 0."""
        blocked = np.zeros(len(at), bool)
        limit = np.broadcast_to(np.asarray(within, np.float32), (len(at),))
        for some, starts, inverse in _pieces(at, towards):
            for thing in self.things:
                blocked[some] |= thing.hit(starts, inverse) < limit[some]
        return blocked.astype(np.float32)

    def _shaded(self, which: NDArray[np.int64], origin: Array, rays: Array, distance: Array, bounces: int) -> Array:
        at = origin + rays * distance[:, None]
        normal, own, shine = (np.zeros_like(at) for _ in range(3))
        mirror, rough = np.zeros(len(at), np.float32), np.zeros((len(at), 1), np.float32)
        for index in np.unique(which):
            here, thing = np.flatnonzero(which == index), self.things[index]
            normal[here] = thing.normal(at[here])
            surface = thing.material(at[here], normal[here])
            own[here], shine[here], mirror[here] = surface.colour, surface.shine, surface.mirror
            rough[here] = surface.rough
        off = at + normal * np.float32(2e-3)
        colour = own * self._light(off, normal) + shine
        glossy = np.flatnonzero(mirror)
        if bounces and len(glossy):
            ray, upright = rays[glossy], normal[glossy]
            flat = np.maximum(-dot(ray, upright), 0)
            share = (mirror[glossy] + (1 - mirror[glossy]) * (1 - flat) ** 5)[:, None]
            mirrored = ray - 2 * dot(ray, upright)[:, None] * upright
            mirrored = unit(mirrored + rough[glossy] * self._spread(len(glossy)))
            colour[glossy] = colour[glossy] * (1 - share) + self._traced(off[glossy], mirrored, bounces - 1) * share
        return hazed(colour, distance, rays, self.sky, self.haze) if self.haze else colour

    def _light(self, at: Array, normal: Array) -> Array:
        """What falls on a place: of the sky, less in corners, of the sun and of lamps, where nothing is before them."""
        light, sun = np.zeros_like(at), self.sky.towards()
        for _ in range(self.samples):
            around = unit(normal + self._spread(len(at)))
            open_ = 1 - 0.75 * self._blocked(at, around, 1.2)
            light += np.asarray(self.ambient, np.float32) * open_[:, None] * (0.75 + 0.25 * normal[:, 1:2])
            towards = unit(sun + self.soft * self._spread(len(at)))
            lit = np.maximum(dot(normal, towards), 0)
            facing = np.flatnonzero(lit)
            lit[facing] *= 1 - self._blocked(at[facing], towards[facing], FAR)
            light += lit[:, None] * self.sky.light()
        for lamp in self.lamps:
            light += self.samples * self._of_lamp(lamp, at, normal)
        return light / self.samples

    def _of_lamp(self, lamp: Lamp, at: Array, normal: Array) -> Array:
        place = np.asarray(lamp.place, np.float32) + 0.06 * self._spread(len(at))
        way = place - at
        length = np.sqrt(dot(way, way))
        towards = way / length[:, None]
        lit = np.maximum(dot(normal, towards), 0) / (0.05 + length**2)
        facing = np.flatnonzero(lit > 1e-3)
        lit[facing] *= 1 - self._blocked(at[facing], towards[facing], length[facing] - SHADE)
        return lit[:, None] * np.asarray(lamp.light, np.float32)

    def _spread(self, count: int) -> Array:
        """Directions at random, of length 1."""
        return unit(self.chance.normal(size=(count, 3)).astype(np.float32))


def _pieces(origin: Array, rays: Array) -> Iterator[tuple[slice, Array, Array]]:
    """Rays a few at a time, so that what is made of them stays near the processor: (3, rays), and 1 over each."""
    safe = np.where(np.abs(rays) < 1e-7, np.float32(1e-7), rays)
    for start in range(0, len(rays), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        yield some, np.ascontiguousarray(origin[some].T), np.ascontiguousarray(1 / safe[some].T)
