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
    for tick in whole_ticks(low_x, max(xs)):
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
    if span <= 0:  # one value: from 0 to its double, so that it stands in the middle
        low, high = sorted((0.0, 2 * high)) if high else (0.0, 1.0)
        span = high - low
    rough = span / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]


def whole_ticks(low: float, high: float) -> list[int]:
    """At most about eight whole numbers within bounds."""
    step = max(1, math.ceil((high - low) / 8))
    return list(range(math.ceil(low), math.floor(high) + 1, step))


def heat_map(
    title: str,
    rows: Sequence[float],
    columns: Sequence[float],
    values: Sequence[Sequence[float]],
    *,
    chosen: tuple[float, float] | None = None,
) -> str:
    """A map of values in 0..1: a row for each temperature (the lowest at the bottom), a column for each threshold.

    Args:
        title: what it shows.
        rows, columns: temperatures and thresholds in ascending order.
        values: (rows, columns).
        chosen: the pair in force; its cell, the nearest one, has a frame.

    Returns:
        An `<svg>` element. Darker cells of a light page, and brighter ones of a dark page, have higher values; a dot
        marks the largest value of each row.
    """
    largest = max(max(line) for line in values) or 1.0
    width, height = (WIDTH - LEFT - RIGHT) / len(columns), (HEIGHT - TOP - BOTTOM) / len(rows)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    framed = None
    if chosen is not None:
        framed = _nearest(rows, chosen[0]), _nearest(columns, chosen[1])
    for line, temperature in enumerate(rows):
        y = HEIGHT - BOTTOM - (line + 1) * height
        best = max(range(len(columns)), key=lambda column: (values[line][column], column))
        middle = y + height / 2
        parts.append(
            f'<text class="tick" x="{LEFT - 6}" y="{middle + 3.5:.1f}" text-anchor="end">{temperature:g}</text>'
        )
        for column, threshold in enumerate(columns):
            value = values[line][column]
            x = LEFT + column * width
            told = f"T = {temperature:g}, tau = {threshold:.3g}: {value:.3f}"
            frame = " chosen" if (line, column) == framed else ""
            parts.append(
                f'<rect class="cell{frame}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
                f'fill-opacity="{value / largest:.2f}"><title>{told}</title></rect>'
            )
            if column == best:
                parts.append(f'<circle class="best" cx="{x + width / 2:.1f}" cy="{middle:.1f}" r="2"/>')
    for column in range(0, len(columns), max(1, len(columns) // 5)):
        x = LEFT + (column + 0.5) * width
        told = f"{columns[column]:.2g}"
        parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{told}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="tick" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">threshold</text>')
    return "".join([*parts, "</svg>"])


def histogram(
    title: str,
    edges: Sequence[float],
    layers: Sequence[tuple[str, Sequence[int]]],
    *,
    label: str,
    line: float | None = None,
    whole: bool = False,
) -> str:
    """Counts over bins, layers stacked upon each other.

    Args:
        title: what it shows.
        edges: of the bins, one more than these.
        layers: name and counts of each, from the bottom; the second one is hatched.
        label: of the axis.
        line: a value to mark.
        whole: the bins are the numbers 0, 1, 2, ..., whose ticks stand in their middles.

    Returns:
        An `<svg>` element.
    """
    totals = [sum(counts) for counts in zip(*(counts for _, counts in layers), strict=True)]
    ticks = nice_ticks(0, max(totals) or 1)
    low, high = edges[0], edges[-1]

    def across(value: float) -> float:
        return LEFT + (value - low) / ((high - low) or 1.0) * (WIDTH - LEFT - RIGHT)

    def up(count: float) -> float:
        return HEIGHT - BOTTOM - count / ticks[-1] * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(tick):.1f}" y2="{up(tick):.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{up(tick) + 3.5:.1f}" text-anchor="end">{tick:g}</text>')
    below = [0] * len(totals)
    for place, (name, counts) in enumerate(layers):
        for number, count in enumerate(counts):
            if count:
                x, right = across(edges[number]), across(edges[number + 1])
                top = up(below[number] + count)
                span = f"{number}" if whole else f"{edges[number]:.3g} to {edges[number + 1]:.3g}"
                parts.append(
                    f'<rect class="bar{place}" x="{x + 0.5:.1f}" y="{top:.1f}" width="{max(right - x - 1, 0.5):.1f}" '
                    f'height="{up(below[number]) - top:.1f}"><title>{escape(name)}, {span}: {count}</title></rect>'
                )
                below[number] += count
    numbers = whole_ticks(0, len(totals) - 1) if whole else nice_ticks(low, high)
    for value in numbers:
        x = across(value + 0.5 * (edges[1] - edges[0]) if whole else value)
        if LEFT - 1 <= x <= WIDTH - RIGHT + 1:
            parts.append(
                f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{value:g}</text>'
            )
    if line is not None and low <= line <= high:
        parts.append(
            f'<line class="mark" x1="{across(line):.1f}" x2="{across(line):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="tick" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(label)}</text>')
    return "".join([*parts, "</svg>"])


def _nearest(values: Sequence[float], wanted: float) -> int:
    return min(range(len(values)), key=lambda place: abs(values[place] - wanted))
