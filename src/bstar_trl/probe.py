"""The probe of an iteration: real responses for the search of the temperature."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .records import Rollouts
from .search import Observed, Prior, SearchResult, Slice, find_setting
from .shares import Shares

Order = tuple[float, Sequence[int], int]  # temperature, queries, responses to each
Ask = Callable[..., Rollouts]  # takes orders; one call is one submission to the engine


@dataclass(frozen=True)
class Probe:
    """What a probe found.

    Args:
        rollouts (`Rollouts`): its responses, at all temperatures.
        result (`SearchResult`): of the search.
        seconds (`float`): for sampling, scoring and searching.
    """

    rollouts: Rollouts
    result: SearchResult
    seconds: float

    @property
    def figures(self) -> dict[str, float]:
        """What it cost, under the names of the logs."""
        return {
            "balance/probe_completions": float(self.result.completions),
            "balance/probe_seconds": self.seconds,
        }


def probe(
    ask: Ask,
    agree: Callable[[Any], Any],
    queries: Sequence[int],
    temperatures: Sequence[float],
    *,
    shares: Shares,
    num_generations: int,
    target: float,
    thresholds: Sequence[float] | None,
    rng: np.random.Generator,
    prior: Prior | None,
    smooth: bool,
) -> Probe:
    """Sample the first queries at several temperatures, in slices or all of them at each, and search.

    Args:
        ask: samples and scores orders.
        agree: returns what the main process says.
        queries (`Sequence[int]`): the iteration's; the first `shares.num_queries` of them take part.
        temperatures (`Sequence[float]`): candidates.
        shares (`Shares`): the kind of search, and its number of queries.
        num_generations, target, thresholds, rng, prior, smooth: as of [`find_setting`].
    """
    started = time.perf_counter()
    probed: list[Rollouts] = []

    def observe(slices: Sequence[Slice]) -> list[Observed]:
        slices = agree(slices)
        places = [(temperature, [queries[place] for place in who], num_generations) for temperature, who in slices]
        probed.append(ask(*places))
        grids = [probed[0].at(temperature).grids for temperature, _ in slices]
        return [
            Observed(item.rewards_NK, item.correct_NK, item.selectable_NK, item.chance_N, item.step_NK)
            for item in grids
        ]

    in_slices = shares.search == "slices"
    result = find_setting(
        observe,
        temperatures,
        num_queries=shares.num_queries,
        num_generations=num_generations,
        target=target,
        budget=shares.num_queries * num_generations * (1 if in_slices else len(temperatures)),
        disjoint=in_slices,
        thresholds=thresholds,
        rng=rng,
        prior=prior,
        smooth=smooth,
    )
    return Probe(probed[0], agree(result), time.perf_counter() - started)
