"""The demo's picture: curves of one or several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import MissingDependencyError

PANELS = (
    ("valid@1", "valid@1, 5 terms"),
    ("greedy_valid_6", "greedy valid, 6 terms"),
    ("distinct_valid", "distinct valid of 32, 5 terms"),
    ("lucky_share", "lucky share of the selected"),
    ("temperature", "temperature"),
    ("threshold", "threshold"),
)
COLORS = ("#1b6ca8", "#d1603d", "#6a8d3a", "#8b5fa8", "#8a8a8a", "#c9a227")


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


def plot_curves(runs: Mapping[str, Mapping[str, Any]], path: str | Path) -> None:
    """Draw the curves of one or several demo runs into a PNG.

    Args:
        runs (`Mapping[str, dict]`): summaries of runs (see `run_demo`) by their labels.
        path (`str` or `Path`): the file to write.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    pyplot = load_pyplot()
    figure, axes = pyplot.subplots(2, 3, figsize=(12, 6), constrained_layout=True)
    for axis, (name, title) in zip(axes.flat, PANELS, strict=True):
        for color, (label, summary) in zip(COLORS, runs.items(), strict=False):
            steps, values = _series(summary, name)
            axis.plot(steps, values, marker="o", markersize=3.5, linewidth=1.8, color=color, label=label)
        axis.set_title(title, fontsize=11, loc="left")
        axis.set_xlabel("iteration", fontsize=9)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if name in ("valid@1", "greedy_valid_6"):
            axis.set_ylim(0, 1)
    axes.flat[0].legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _series(summary: Mapping[str, Any], name: str) -> tuple[Sequence[int], Sequence[float]]:
    """Iterations and values; the policy's figures also have a value at 0, before the first iteration."""
    values = [row[name] for row in summary["iterations"]]
    if name in summary["initial"]:
        return range(len(values) + 1), [summary["initial"][name], *values]
    return range(1, len(values) + 1), values
