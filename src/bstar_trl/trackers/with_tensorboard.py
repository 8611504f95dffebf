"""TensorBoard: the configuration, maps of the score, histograms, and some responses of each iteration as text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from transformers.integrations import TensorBoardCallback

from .base import Histogram, Tracker, histograms_of

SHOWN = 20  # responses of an iteration: a text has no pages
LONGEST = 500  # characters of a cell


class TensorBoardTracker(Tracker):
    """Writes beside the figures of transformers' callback, by the optimizer step, the only axis that TensorBoard has;
    arguments as of [`Tracker`]."""

    title = "TensorBoard"

    def _find_run(self) -> Any:
        for callback in self.callbacks():
            if isinstance(callback, TensorBoardCallback):
                return callback.tb_writer
        return None

    def _set_up(self, run: Any) -> None:
        run.add_text("bstar", f"```json\n{json.dumps(dict(self.described()), indent=2)}\n```")

    def _send_details(self, run: Any, iteration: int, step: int, details: Mapping[str, Any]) -> None:
        for item in histograms_of(details):
            run.add_histogram_raw(f"train/{item.name}", **_raw(item), global_step=step)
        with self._score_map(details) as figure:
            if figure is not None:
                run.add_figure("train/score_map", figure, step, close=False)

    def _send_completions(self, run: Any, iteration: int, step: int, table: pd.DataFrame) -> None:
        rows = [list(table.columns), *table.head(SHOWN).itertuples(index=False)]
        run.add_text(
            "completions", "\n".join([_line(rows[0]), _line(["---"] * len(rows[0])), *map(_line, rows[1:])]), step
        )


def _raw(item: Histogram) -> dict[str, Any]:
    """The histogram as TensorBoard stores it; each value counts as the middle of its bin."""
    edges, counts = np.array(item.edges, dtype=np.float64), np.array(item.counts, dtype=np.float64)
    middles = (edges[:-1] + edges[1:]) / 2
    return {
        "min": edges[0],
        "max": edges[-1],
        "num": counts.sum(),
        "sum": (counts * middles).sum(),
        "sum_squares": (counts * middles**2).sum(),
        # A bin of TensorBoard's begins where the one before it ends: an empty one leads to the first edge.
        "bucket_limits": edges,
        "bucket_counts": np.concatenate([[0.0], counts]),
    }


def _line(cells: Sequence[Any]) -> str:
    """A line of a Markdown table."""
    texts = [str(cell)[:LONGEST].replace("|", "\\|").replace("\n", "<br>") for cell in cells]
    return f"| {' | '.join(texts)} |"
