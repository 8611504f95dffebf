"""What an iteration costs: responses and seconds, by phase."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..rollouts.round import Sampler


@dataclass
class SamplingCost:
    """What it took to find an iteration's samples, rounds that selected nothing included.

    Args:
        num_sampled: responses, of all processes.
        num_tokens: theirs and their prompts'.
        sampling_seconds: as of [`Sampler`].
        scoring_seconds: as of [`Sampler`].
    """

    num_sampled: int = 0
    num_tokens: int = 0
    sampling_seconds: float = 0.0
    scoring_seconds: float = 0.0

    def add(self, sampler: Sampler) -> None:
        """Another round's."""
        self.num_sampled += sampler.num_sampled
        self.num_tokens += sampler.num_tokens
        self.sampling_seconds += sampler.sampling_seconds
        self.scoring_seconds += sampler.scoring_seconds

    @property
    def figures(self) -> dict[str, float]:
        """The seconds, under the names of the logs."""
        return {"cost/sampling_seconds": self.sampling_seconds, "cost/scoring_seconds": self.scoring_seconds}


class Stopwatch:
    """Counts seconds; stands still until it is started."""

    def __init__(self) -> None:
        self._since: float | None = None

    def start(self, seconds: float = 0.0) -> None:
        """Go on from so many seconds."""
        self._since = time.perf_counter() - seconds

    @property
    def seconds(self) -> float:
        """Counted so far."""
        return 0.0 if self._since is None else time.perf_counter() - self._since

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Within, nothing is counted."""
        seconds = self.seconds
        try:
            yield
        finally:
            if self._since is not None:
                self.start(seconds)
