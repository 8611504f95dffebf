"""The demo's picture: curves of one or several runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..reports.curves import Panel, plot_curves

PANELS = (
    Panel("valid@1", "valid@1, 5 terms", is_share=True),
    Panel("greedy_valid_6", "greedy valid, 6 terms", is_share=True),
    Panel("distinct_valid", "distinct valid of 32, 5 terms"),
    Panel("lucky_share", "lucky share of the selected"),
    Panel("temperature", "temperature"),
    Panel("threshold", "threshold"),
)


def plot_demo(runs: Mapping[str, Mapping[str, Any]], path: str | Path) -> None:
    """Draw the curves of one or several demo runs into a PNG.

    Args:
        runs (`Mapping[str, dict]`): summaries of runs (see `run_demo`) by their labels.
        path (`str` or `Path`): the file to write.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    rows = {
        label: [
            {"iteration": 0, **summary["initial"]},
            *({"iteration": number, **row} for number, row in enumerate(summary["iterations"], start=1)),
        ]
        for label, summary in runs.items()
    }
    plot_curves(rows, path, PANELS)
