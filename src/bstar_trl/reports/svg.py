"""Small charts as SVG that stands inside a page: colours come from its style sheet, so they follow a dark mode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 330, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 34
DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 2", "10 4")  # lines can be told apart without colour
TICKS = 4


@dataclass(frozen=True)
class Line:
    """One run's points in a chart, in order of x.

    Args:
        label: the run's.
        points: (x, y).
    """

    label: str
    points: Sequence[tuple[float, float]]


def line_chart(title: str, lines: Sequence[Line], *, is_share: bool = False) -> str:
    """A chart of figures over iterations.

    Args:
        title: what it shows; also for those who hear the page.
        lines: one for each run, in the order of their colours; some may be empty.
        is_share: the axis goes from 0 to 1.

    Returns:
        An `<svg>` element.
    """
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    low_x, high_x = min(xs), max(max(xs), min(xs) + 1)
    y_ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if is_share else nice_ticks(min(ys), max(ys))
    low_y, high_y = y_ticks[0], y_ticks[-1]

    def at(x: float, y: float) -> tuple[float, float]:
        across, up = (x - low_x) / (high_x - low_x), (y - low_y) / (high_y - low_y)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for tick in y_ticks:
        _, y = at(low_x, tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in whole_ticks(low_x, high_x):
        x, _ = at(tick, low_y)
        parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{tick}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="tick" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">iteration</text>')
    for place, line in enumerate(lines):
        places = [at(*point) for point in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        dash = f' stroke-dasharray="{DASHES[place % len(DASHES)]}"' if DASHES[place % len(DASHES)] else ""
        parts.append(f'<polyline class="run{place % len(DASHES)}" points="{path}"{dash}/>')
        for (x, y), (iteration, value) in zip(places, line.points, strict=True):
            told = escape(f"{line.label}, iteration {iteration:g}: {value:.4g}")
            parts.append(f"{marker(place, x, y)}<title>{told}</title></{MARKERS[place % len(MARKERS)]}>")
    return "".join([*parts, "</svg>"])


MARKERS = ("circle", "rect", "path", "path", "path", "path")


def marker(place: int, x: float, y: float, size: float = 3.2) -> str:
    """The opening tag of the mark of the run at this place, at a point."""
    name = f'class="mark{place % len(DASHES)}"'
    shapes = (
        f'<circle {name} cx="{x:.1f}" cy="{y:.1f}" r="{size}">',
        f'<rect {name} x="{x - size:.1f}" y="{y - size:.1f}" width="{2 * size}" height="{2 * size}">',
        f'<path {name} d="M{x:.1f} {y - size:.1f}l{size} {2 * size}h{-2 * size}z">',
        f'<path {name} d="M{x:.1f} {y - size - 0.6:.1f}l{size} {size}l{-size} {size}l{-size} {-size}z">',
        f'<path {name} d="M{x:.1f} {y + size:.1f}l{size} {-2 * size}h{-2 * size}z">',
        f'<path {name} d="M{x - size:.1f} {y:.1f}h{2 * size}M{x:.1f} {y - size:.1f}v{2 * size}">',
    )
    return shapes[place % len(shapes)]


def nice_ticks(low: float, high: float) -> list[float]:
    """Round numbers, at least two, from at most `low` to at least `high`."""
    span = high - low
    if span <= 0:
        span = abs(high) or 1.0
        low, high = low - span / 2, high + span / 2
    rough = span / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]


def whole_ticks(low: float, high: float) -> list[int]:
    """At most about eight whole numbers within bounds."""
    step = max(1, math.ceil((high - low) / 8))
    return list(range(math.ceil(low), math.floor(high) + 1, step))
