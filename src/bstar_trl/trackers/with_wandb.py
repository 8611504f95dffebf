"""W&B: the iteration as x axis, the configuration, maps of the score, histograms, and a table that grows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from .base import Tracker, histograms_for, log_at

MOST_ROWS = 10_000  # of the growing table
BY_ITERATION = ("balance", "cost", "explore", "select", "score_map", "histograms")


class WandbTracker(Tracker):
    """Sends to the W&B run of this process. Its table of responses has at most 10,000 rows; arguments as of
    [`Tracker`]."""

    title = "W&B"
    _table: Any = None

    def _find_run(self) -> Any:
        import wandb

        return wandb.run

    def _set_up(self, run: Any) -> None:
        self._table = None
        run.define_metric("train/iteration")
        for name in BY_ITERATION:
            run.define_metric(f"train/{name}/*", step_metric="train/iteration")
        run.config.update({"bstar": dict(self.described())}, allow_val_change=True)

    def _send_details(self, run: Any, iteration: int, step: int, details: Mapping[str, Any]) -> None:
        import wandb

        values = histograms_for(wandb.Histogram, details)
        with self._score_map(details) as figure:
            if figure is not None:
                values["train/score_map"] = wandb.Image(figure)
            log_at(run, iteration, step, values)

    def _send_completions(self, run: Any, iteration: int, step: int, table: pd.DataFrame) -> None:
        import wandb

        shown = table.assign(iteration=iteration)
        if self._table is None:
            self._table = wandb.Table(columns=list(shown.columns), log_mode="INCREMENTAL", allow_mixed_types=True)
        room = MOST_ROWS - len(self._table.data)
        if len(shown) > room:
            self._warn(f"the table of responses in W&B is full ({MOST_ROWS:,} rows): later ones are left out")
        for row in shown.head(max(0, room)).itertuples(index=False):
            self._table.add_data(*row)
        if room > 0:
            log_at(run, iteration, step, {"completions": self._table})
