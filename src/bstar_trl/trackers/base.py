"""What trackers have in common: they may fail, and the training goes on."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from ..errors import MissingDependencyError
from ..reports.curves import load_pyplot, plot_score_map

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Histogram:
    """Counts between edges, as an iteration's details hold them.

    Args:
        name: under which it is shown.
        counts: how many values lie in each bin.
        edges: of the bins, one more than these.
    """

    name: str
    counts: Sequence[int]
    edges: Sequence[float]


class Tracker(ABC):
    """Sends an iteration's details and responses to the tracker's run of this process, if there is one.

    Each run of the tracker is told once what the training is. Whatever goes wrong is warned about, each message once.

    Args:
        described (`Callable`): the configuration beyond the trainer's arguments, ready for JSON.
        callbacks (`Callable`): the trainer's callbacks.
    """

    title: ClassVar[str]

    def __init__(self, described: Callable[[], Mapping[str, Any]], callbacks: Callable[[], Sequence[Any]]):
        self.described = described
        self.callbacks = callbacks
        self._run: Any = None  # the one that has been told
        self._warned: set[str] = set()

    def send_details(self, iteration: int, step: int, details: Mapping[str, Any]) -> None:
        """What an iteration found beyond single figures.

        Args:
            iteration (`int`): as logged, from 0.
            step (`int`): the optimizer step that it is shown at.
            details (`Mapping`): as of `iteration_details`.
        """
        self._try(self._send_details, iteration, step, details)

    def send_completions(self, iteration: int, step: int, table: pd.DataFrame) -> None:
        """An iteration's responses, a row each; other arguments as of [`send_details`]."""
        self._try(self._send_completions, iteration, step, table)

    @abstractmethod
    def _find_run(self) -> Any:
        """The run of this process, or `None`."""

    @abstractmethod
    def _set_up(self, run: Any) -> None:
        """Tell a new run what the training is."""

    @abstractmethod
    def _send_details(self, run: Any, iteration: int, step: int, details: Mapping[str, Any]) -> None: ...

    @abstractmethod
    def _send_completions(self, run: Any, iteration: int, step: int, table: pd.DataFrame) -> None: ...

    def _try(self, send: Callable[..., None], *given: Any) -> None:
        """Send to the run, if there is one. What goes wrong in the tracker's client is a warning."""
        try:
            run = self._find_run()
            if run is None:
                return
            if run is not self._run:
                self._set_up(run)
                self._run = run
            send(run, *given)
        except Exception as error:  # clients raise errors of all kinds, and none is worth a training
            self._warn(f"{self.title} was not sent everything, the training goes on: {error}")

    @contextmanager
    def _score_map(self, details: Mapping[str, Any]) -> Iterator[Any]:
        """A figure of the map of the score; `None` without a map, or, with a warning, without matplotlib."""
        if "score_map" not in details:
            yield None
            return
        try:
            pyplot = load_pyplot()
        except MissingDependencyError as error:
            self._warn(f"{self.title} gets no maps of the balance score: {error}")
            yield None
            return
        figure = plot_score_map(details["score_map"], (details["temperature"], details["threshold"]))
        try:
            yield figure
        finally:
            pyplot.close(figure)

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            logger.warning("%s", message)


def histograms_of(details: Mapping[str, Any]) -> list[Histogram]:
    """The histograms of an iteration's details: rewards, different right responses, selected responses."""
    rewards = details["rewards"]
    found = [Histogram(f"histograms/rewards_{kind}", rewards[kind], rewards["edges"]) for kind in ("correct", "wrong")]
    for name in ("unique_correct", "selected"):
        if counts := details.get(name):
            edges = [number - 0.5 for number in range(len(counts) + 1)]
            found.append(Histogram(f"histograms/{name}", counts, edges))
    return found


def histograms_for(histogram: Callable[..., Any], details: Mapping[str, Any]) -> dict[str, Any]:
    """The histograms of an iteration's details by their names, for W&B and for clients that follow its interface.

    Args:
        histogram: the client's class.
        details (`Mapping`): as of `iteration_details`.
    """
    return {
        f"train/{item.name}": histogram(np_histogram=(np.array(item.counts), np.array(item.edges)))
        for item in histograms_of(details)
    }


def log_at(run: Any, iteration: int, step: int, values: Mapping[str, Any]) -> None:
    """Log to a run of W&B, or of a client that follows its interface, with the axes."""
    run.log({**values, "train/iteration": iteration, "train/global_step": step})
