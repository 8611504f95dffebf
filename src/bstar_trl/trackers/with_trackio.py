"""Trackio: the configuration, maps of the score, histograms, and a table of responses for each iteration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from .base import Tracker, histograms_for, log_at


class TrackioTracker(Tracker):
    """Sends to the trackio run of this process; arguments as of [`Tracker`]."""

    title = "trackio"

    def _find_run(self) -> Any:
        import trackio

        return trackio.context_vars.current_run.get()

    def _set_up(self, run: Any) -> None:
        run.config["bstar"] = dict(self.described())

    def _send_details(self, run: Any, iteration: int, step: int, details: Mapping[str, Any]) -> None:
        import trackio

        values = histograms_for(trackio.Histogram, details)
        with self._score_map(details) as figure:
            if figure is not None:
                figure.canvas.draw()
                values["train/score_map"] = trackio.Image(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())
        log_at(run, iteration, step, values)

    def _send_completions(self, run: Any, iteration: int, step: int, table: pd.DataFrame) -> None:
        import trackio

        log_at(run, iteration, step, {"completions": trackio.Table(dataframe=table.assign(iteration=iteration))})
