"""What W&B is sent beyond the figures that transformers' callback sends: the axis, the configuration, maps of the
score, histograms, and a table of responses that grows.

Monitoring that fails is warned about, and never stops a run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd

from ..errors import MissingDependencyError
from ..reports.curves import load_pyplot, plot_score_map

logger = logging.getLogger(__name__)
MOST_ROWS = 10_000  # of the growing table
BY_ITERATION = ("balance", "explore", "select", "score_map", "histograms")


class WandbTracker:
    """Sends an iteration's details and responses to the W&B run of this process, if there is one.

    Args:
        report_to (`Sequence[str]`, *optional*): the trainer's trackers; without `"wandb"` nothing is sent.
        described (`Callable`): the configuration beyond the trainer's arguments, ready for JSON.
    """

    def __init__(self, report_to: Sequence[str] | None, described: Callable[[], Mapping[str, Any]]):
        self.is_wanted = "wandb" in (report_to or [])
        self.described = described
        self._run_id: str | None = None  # of the run that has been set up
        self._table: Any = None
        self._warned: set[str] = set()

    def send_details(self, iteration: int, step: int, details: Mapping[str, Any]) -> None:
        """The map of the score and the histograms of an iteration.

        Args:
            iteration (`int`): as logged, from 0.
            step (`int`): the optimizer step that they are shown at.
            details (`Mapping`): as of [`iteration_details`].
        """
        with self._watched():
            self._send_details(iteration, step, details)

    def send_completions(self, iteration: int, step: int, table: pd.DataFrame) -> None:
        """Add responses to the run's table, up to 10,000 rows in all; arguments as of [`send_details`]."""
        with self._watched():
            self._send_completions(iteration, step, table)

    def _send_details(self, iteration: int, step: int, details: Mapping[str, Any]) -> None:
        wandb = self._client()
        if wandb is None:
            return
        rewards = details["rewards"]
        values = {
            f"histograms/rewards_{kind}": _histogram(wandb, rewards[kind], rewards["edges"])
            for kind in ("correct", "wrong")
        }
        for name in ("unique_correct", "selected"):
            if counts := details.get(name):
                edges = [number - 0.5 for number in range(len(counts) + 1)]
                values[f"histograms/{name}"] = _histogram(wandb, counts, edges)
        if "score_map" in details:
            values |= self._picture(wandb, details)
        self._log(wandb, iteration, step, values)

    def _picture(self, wandb: Any, details: Mapping[str, Any]) -> dict[str, Any]:
        try:
            pyplot = load_pyplot()
        except MissingDependencyError as error:
            self._warn(f"W&B gets no maps of the balance score: {error}")
            return {}
        figure = plot_score_map(details["score_map"], (details["temperature"], details["threshold"]))
        picture = wandb.Image(figure)
        pyplot.close(figure)
        return {"score_map": picture}

    def _send_completions(self, iteration: int, step: int, table: pd.DataFrame) -> None:
        wandb = self._client()
        if wandb is None:
            return
        shown = table.assign(iteration=iteration)
        if self._table is None:
            self._table = wandb.Table(columns=list(shown.columns), log_mode="INCREMENTAL", allow_mixed_types=True)
        room = MOST_ROWS - len(self._table.data)
        if len(shown) > room:
            self._warn(f"the table of responses in W&B is full ({MOST_ROWS:,} rows): later ones are left out")
        for row in shown.head(max(0, room)).itertuples(index=False):
            self._table.add_data(*row)
        if room > 0:
            self._log(wandb, iteration, step, {"completions": self._table})

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Within, what goes wrong in the client is a warning."""
        if not self.is_wanted:
            yield
            return
        import wandb

        try:
            yield
        except (wandb.Error, OSError, ValueError, TypeError) as error:
            self._warn(f"W&B was not sent everything, the training goes on: {error}")

    def _client(self) -> Any:
        """The client, its run set up; `None` where there is none."""
        if not self.is_wanted:
            return None
        import wandb

        if wandb.run is None:
            return None
        if wandb.run.id != self._run_id:
            self._set_up(wandb)
        return wandb

    def _set_up(self, wandb: Any) -> None:
        self._run_id, self._table = wandb.run.id, None
        wandb.define_metric("train/iteration")
        for name in BY_ITERATION:
            wandb.define_metric(f"train/{name}/*", step_metric="train/iteration")
        wandb.run.config.update({"bstar": dict(self.described())}, allow_val_change=True)

    def _log(self, wandb: Any, iteration: int, step: int, values: Mapping[str, Any]) -> None:
        sent = {f"train/{name}" if name != "completions" else name: value for name, value in values.items()}
        wandb.log({**sent, "train/iteration": iteration, "train/global_step": step})

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            logger.warning("%s", message)


def _histogram(wandb: Any, counts: Sequence[int], edges: Sequence[float]) -> Any:
    return wandb.Histogram(np_histogram=(list(counts), list(edges)))
