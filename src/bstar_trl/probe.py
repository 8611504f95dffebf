"""The search of an iteration's temperature, on real responses."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .records import Rollouts
from .search import Observed, Prior, SearchResult, Slice, find_setting
from .shares import Shares

logger = logging.getLogger(__name__)

Order = tuple[float, Sequence[int], int]  # temperature, queries, responses to each
Ask = Callable[..., Rollouts]  # takes orders; one call is one submission to the engine


@dataclass(frozen=True)
class Probe:
    """What a search found.

    Args:
        temperature (`float`): the winner, or the one that is kept where none scores above 0.
        threshold (`float`, *optional*): the best one at the winner; `None` where none scores above 0.
        rollouts (`Rollouts`): all responses that it saw.
        kept (`Rollouts`): those that are training material; may be none.
        figures (`dict[str, float]`): what it cost, under the names of the logs.
    """

    temperature: float
    threshold: float | None
    rollouts: Rollouts
    kept: Rollouts
    figures: dict[str, float]


class TemperatureSearch:
    """Samples an iteration's first queries at several temperatures, in slices or all of them at each, and chooses.

    Args:
        temperatures (`Sequence[float]`): candidates.
        shares (`Shares`): the kind of search, and its number of queries.
        rng (`np.random.Generator`): draws the slices.
        num_generations, target, thresholds, smooth: as of [`find_setting`].

    Attributes:
        prior (`Prior`, *optional*): what the last search that found something leaves to the next one.
    """

    def __init__(
        self,
        temperatures: Sequence[float],
        shares: Shares,
        rng: np.random.Generator,
        *,
        num_generations: int,
        target: float,
        thresholds: Sequence[float] | None,
        smooth: bool,
    ):
        self.temperatures = temperatures
        self.shares = shares
        self.rng = rng
        self.num_generations = num_generations
        self.target = target
        self.thresholds = thresholds
        self.smooth = smooth
        self.prior: Prior | None = None

    def __call__(
        self, ask: Ask, agree: Callable[[Any], Any], queries: Sequence[int], *, in_force: float
    ) -> Probe | None:
        """Search; `None` where there is nothing to choose from. A collective.

        Args:
            ask: samples and scores orders.
            agree: returns what the main process says.
            queries (`Sequence[int]`): the iteration's; the first `shares.num_queries` of them take part.
            in_force (`float`): the temperature of the last iteration.
        """
        if len(self.temperatures) == 1:
            return None
        started = time.perf_counter()
        rollouts, result = self._find(ask, agree, queries)
        figures = {
            "balance/probe_completions": float(result.completions),
            "balance/probe_seconds": time.perf_counter() - started,
        }
        in_slices = self.shares.search == "slices"
        threshold: float | None
        temperature, threshold = result.setting.temperature, result.setting.threshold
        if result.setting.score > 0:
            self.prior = result.prior
        else:
            # With slices there may be no responses at the temperature in force, so it is the candidate next to it.
            temperature = min(self.temperatures, key=lambda item: abs(item - in_force)) if in_slices else in_force
            threshold = None
            logger.warning(
                "No temperature (%s) scores above 0 on %d queries; T = %g is kept.",
                ", ".join(f"{value:g}" for value in self.temperatures),
                self.shares.num_queries,
                temperature,
            )
        kept = rollouts if in_slices else rollouts.at(temperature)
        return Probe(temperature, threshold, rollouts, kept, figures)

    def _find(self, ask: Ask, agree: Callable[[Any], Any], queries: Sequence[int]) -> tuple[Rollouts, SearchResult]:
        probed: list[Rollouts] = []

        def observe(slices: Sequence[Slice]) -> list[Observed]:
            slices = agree(slices)
            probed.append(
                ask(*((value, [queries[place] for place in who], self.num_generations) for value, who in slices))
            )
            grids = [probed[0].at(temperature).grids for temperature, _ in slices]
            return [
                Observed(item.rewards_NK, item.correct_NK, item.selectable_NK, item.chance_N, item.step_NK)
                for item in grids
            ]

        in_slices = self.shares.search == "slices"
        result = find_setting(
            observe,
            self.temperatures,
            num_queries=self.shares.num_queries,
            num_generations=self.num_generations,
            target=self.target,
            budget=self.shares.num_queries * self.num_generations * (1 if in_slices else len(self.temperatures)),
            disjoint=in_slices,
            thresholds=self.thresholds,
            rng=self.rng,
            prior=self.prior,
            smooth=self.smooth,
        )
        return probed[0], agree(result)
