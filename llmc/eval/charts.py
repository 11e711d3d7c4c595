"""Line charts as plain data: where the lines, dots and ticks of an SVG go. The template draws them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 34  # margins, in units of the view box


@dataclass(frozen=True)
class Dot:
    """One point, and what it says when pointed at."""

    x: float
    y: float
    title: str


@dataclass(frozen=True)
class Line:
    """One series; `path` is the `d` of an SVG path, broken where a figure is missing."""

    key: str
    label: str
    path: str
    dots: list[Dot]


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """All that the template needs."""

    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    x_title: str
    logarithmic: bool


def line_chart(
    series: Mapping[str, Sequence[float | None]], labels: Mapping[str, str], names: Sequence[str], x_title: str
) -> Chart | None:
    """Draw figures over an index; `names` are what each index is called. None when there is nothing to draw."""
    values = [value for figures in series.values() for value in figures if value is not None]
    if not values:
        return None
    logarithmic = min(values) > 0 and max(values) / min(values) >= 8
    ticks = _decades(min(values), max(values)) if logarithmic else _steps(max(values))
    x, y = _x_scale(len(names)), _y_scale(ticks, logarithmic)
    lines = []
    for key, figures in series.items():
        dots = [
            None if value is None else Dot(x(i), y(value), f"{labels[key]}, {names[i]}: {value:.4g}")
            for i, value in enumerate(figures)
        ]
        lines.append(Line(key, labels[key], _path(dots), [dot for dot in dots if dot]))
    every = max(1, math.ceil(len(names) / 12))
    x_ticks = [Tick(x(i), str(i)) for i in range(0, len(names), every)]
    return Chart(lines, x_ticks, [Tick(y(tick), f"{tick:.4g}") for tick in ticks], x_title, logarithmic)


def _x_scale(count: int) -> Callable[[float], float]:
    step = (WIDTH - LEFT - RIGHT) / max(1, count - 1)
    return lambda i: round(LEFT + i * step, 1)


def _y_scale(ticks: Sequence[float], logarithmic: bool) -> Callable[[float], float]:
    shape: Callable[[float], float] = math.log10 if logarithmic else float
    low, high = shape(ticks[0]), shape(ticks[-1])
    return lambda value: round(HEIGHT - BOTTOM - (shape(value) - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)


def _decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten that enclose the values, or bare powers when that is too many lines."""
    for mantissas in ((1, 2, 5), (1,)):
        exponents = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 2)
        every = [m * 10.0**e for e in exponents for m in mantissas]
        first = max(i for i, tick in enumerate(every) if tick <= low)
        last = min(i for i, tick in enumerate(every) if tick >= high)
        if last - first <= 6:
            break
    return every[first : last + 1]


def _steps(high: float) -> list[float]:
    """About four round steps from zero."""
    if high <= 0:
        return [0.0, 1.0]
    size = 10.0 ** math.floor(math.log10(high))
    step = next(size * m for m in (0.25, 0.5, 1, 2, 2.5) if high / (size * m) <= 4.5)
    return [i * step for i in range(math.ceil(high / step) + 1)]


def _path(dots: Sequence[Dot | None]) -> str:
    commands, drawing = [], False
    for dot in dots:
        if dot is not None:
            commands.append(f"{'L' if drawing else 'M'}{dot.x} {dot.y}")
        drawing = dot is not None
    return " ".join(commands)
