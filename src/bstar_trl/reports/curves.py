"""Curves of one or several runs, as a PNG."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import MissingDependencyError
from .columns import evaluation_columns, num_responses

COLORS = ("#1b6ca8", "#d1603d", "#6a8d3a", "#8b5fa8", "#8a8a8a", "#c9a227")
MARKERS = "os^Dvx"  # so that curves can be told apart without colour
COLUMNS = 3
_IN_K = re.compile(r"(?<=@)K\b|(?<=\bof )K\b|(?<=of_)K\b|(?<=among )K\b")


class Panel(NamedTuple):
    """A small picture.

    Args:
        name: the figure's name in the rows.
        title: what stands above it.
        is_share: whether its axis goes from 0 to 1.
        note: how to read it, in a sentence.

    In all of these `@K` and `of K` stand for the number of responses per query.
    """

    name: str
    title: str
    is_share: bool = False
    note: str = ""

    def filled(self, ks: Sequence[int]) -> list[Panel]:
        """The same for each number of responses, if it is about one."""
        texts = (self.name, self.title, self.note)
        if not any(_IN_K.search(text) for text in texts):
            return [self]
        found = []
        for k in ks:
            name, title, note = (_IN_K.sub(str(k), text) for text in texts)
            found.append(Panel(name, title, self.is_share, note))
        return found


# What a run logs besides its evaluations, at the temperature of each iteration.
PANELS = (
    Panel("explore/pass@1", "training queries: pass@1", is_share=True),
    Panel("explore/pass@K", "training queries: pass@K", is_share=True),
    Panel("explore/distinct", "training queries: distinct responses", is_share=True),
    Panel("balance/temperature", "temperature"),
    Panel("balance/threshold", "threshold"),
    Panel("balance/score", "balance score", is_share=True),
    Panel("select/lucky_share", "lucky share, estimated", is_share=True),
    Panel("select/samples", "selected responses"),
    Panel("explore/completions", "sampled responses"),
)


def load_pyplot() -> Any:
    """`matplotlib.pyplot` with a backend that needs no display.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise MissingDependencyError(
            f"the curves need matplotlib, which cannot be imported ({error}): pip install 'bstar-trl[report]'"
        ) from error
    return pyplot


def panels_of(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> list[Panel]:
    """The panels that these runs have figures for: evaluations, exploration, the setting, selection."""
    rows = [row for rows in runs.values() for row in rows]
    found = [Panel(column.name, column.title, is_share=True) for column in evaluation_columns(rows)]
    names = {name for row in rows for name in row}
    return found + [panel for item in PANELS for panel in item.filled(ks_of(rows)) if panel.name in names]


def ks_of(rows: Iterable[Mapping[str, float]]) -> list[int]:
    """The numbers of responses per query that these rows are about: runs may differ in K."""
    return sorted({num_responses(row) for row in rows} - {1})


def plot_curves(
    runs: Mapping[str, Sequence[Mapping[str, float]]], path: str | Path, panels: Sequence[Panel] | None = None
) -> None:
    """Draw curves over the iterations, a panel for each figure and a line in it for each run.

    Args:
        runs (`Mapping[str, Sequence[dict]]`): rows of runs by their labels, as of `iteration_rows`; a run has a point
            where its row holds the figure.
        path (`str` or `Path`): the file to write.
        panels (`Sequence[Panel]`, *optional*): what to draw. `None`: what the runs have.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        ValueError: there is nothing to draw.
    """
    pyplot = load_pyplot()
    panels = panels_of(runs) if panels is None else panels
    if not panels:
        raise ValueError("there is nothing to draw: the runs have no iteration with figures")
    columns = min(COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(
        lines, columns, figsize=(4 * columns, 3 * lines), squeeze=False, constrained_layout=True
    )
    for axis, panel in zip(axes.flat, panels, strict=False):
        for place, (label, rows) in enumerate(runs.items()):
            points = [(row["iteration"], row[panel.name]) for row in rows if panel.name in row]
            axis.plot(
                [x for x, _ in points],
                [y for _, y in points],
                marker=MARKERS[place % len(MARKERS)],
                markersize=3.5,
                linewidth=1.8,
                color=COLORS[place % len(COLORS)],
                label=label,
            )
        axis.set_title(panel.title, fontsize=11, loc="left")
        axis.set_xlabel("iteration", fontsize=9)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if panel.is_share:
            axis.set_ylim(-0.02, 1.02)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    if len(runs) > 1:
        axes.flat[0].legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def plot_score_map(seen: Mapping[str, Any], chosen: tuple[float, float]) -> Any:
    """A heat map of the balance score over temperature and threshold.

    Args:
        seen (`Mapping`): `temperatures`, `thresholds`, `scores` by both, as a run's details hold them.
        chosen (`tuple[float, float]`): temperature and threshold in force.

    Returns:
        A matplotlib figure, which the caller closes.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    pyplot = load_pyplot()
    temperatures, thresholds = seen["temperatures"], seen["thresholds"]
    figure, axis = pyplot.subplots(figsize=(7, 0.5 * len(temperatures) + 1.6), constrained_layout=True)
    image = axis.imshow(seen["scores"], origin="lower", aspect="auto", cmap="cividis", vmin=0)
    figure.colorbar(image, label="balance score")
    axis.set_yticks(range(len(temperatures)), [f"{value:g}" for value in temperatures])
    places = range(0, len(thresholds), max(1, len(thresholds) // 7))
    axis.set_xticks(list(places), [f"{thresholds[place]:.2g}" for place in places])
    axis.set_xlabel("threshold")
    axis.set_ylabel("temperature")
    row = min(range(len(temperatures)), key=lambda place: abs(temperatures[place] - chosen[0]))
    column = min(range(len(thresholds)), key=lambda place: abs(thresholds[place] - chosen[1]))
    axis.plot(
        [column],
        [row],
        marker="s",
        markersize=11,
        markerfacecolor="none",
        markeredgecolor="#d1603d",
        markeredgewidth=2,
    )
    return figure
