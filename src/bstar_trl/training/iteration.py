"""One iteration, up to its samples: probe, explore, score, select (the paper's algorithm 1)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..callback import BalanceCallback
from ..errors import EmptySelectionError
from ..records import Exploration, Rollouts, Selection, Setting, returned
from ..rollouts.round import Sampler
from .costs import SamplingCost
from .details import iteration_details
from .figures import iteration_metrics
from .tables import CompletionsTable, completions_table

logger = logging.getLogger(__name__)

MOST_EMPTY_ROUNDS = 3


@dataclass(frozen=True)
class Iteration:
    """What an iteration sampled and selected.

    Args:
        setting (`Setting`): its temperature and threshold.
        exploration (`Exploration`): what was sampled.
        selection (`Selection`): what it trains on; not empty.
        sampler (`Sampler`): which has the texts.
        cost (`SamplingCost`): of all its rounds.
    """

    setting: Setting
    exploration: Exploration
    selection: Selection
    sampler: Sampler
    cost: SamplingCost

    @property
    def figures(self) -> dict[str, float]:
        """Under the names of the logs, but for the balance's. A collective."""
        return iteration_metrics(self.exploration, self.setting, self.selection, self.sampler) | self.cost.figures

    def details(self, decode: Callable[[Sequence[int]], str]) -> dict[str, Any]:
        """As of [`iteration_details`]. A collective."""
        return iteration_details(self.exploration, self.setting, self.selection, decode)

    def table(self, most: int) -> tuple[CompletionsTable, dict[str, list[Any]]]:
        """Its first responses, at most so many; and of these what reward functions logged. A collective."""
        rollouts = self.exploration.rollouts
        shown = rollouts.take(np.arange(min(most, len(rollouts))))
        extras = self.sampler.logged_extras(shown.rows_R)
        return completions_table(shown, self.selection, self.sampler) | extras, extras


def run_iteration(
    number: int,
    balance: BalanceCallback,
    *,
    next_queries: Callable[[], Sequence[int]],
    make_sampler: Callable[[], Sampler],
    session: Callable[[], AbstractContextManager[Any]],
    select: Callable[[Rollouts, Setting], Selection],
    explain: Callable[[Rollouts, Setting], str],
) -> Iteration:
    """Explore and select; where nothing is selected, explore the next queries. A collective.

    Args:
        number (`int`): of the iteration, from 0.
        balance (`BalanceCallback`): explores, and chooses the setting.
        next_queries: the queries of a round.
        make_sampler: a sampler for a round.
        session: within it responses are sampled.
        select: chooses what to train on.
        explain: why nothing could be selected.

    Raises:
        EmptySelectionError: three rounds in a row selected nothing.
    """
    cost = SamplingCost()
    for _ in range(MOST_EMPTY_ROUNDS):
        queries, sampler = next_queries(), make_sampler()
        with session():
            exploration = balance.begin(sampler, queries)
        setting = sampler.agree(returned(Setting, balance.settle(exploration), "settle"))
        selection = returned(Selection, select(exploration.rollouts, setting), "select_responses")
        cost.add(sampler)
        if len(selection):
            if len(selection) < selection.wanted:
                logger.info("Iteration %d: %d of %d samples found.", number, len(selection), selection.wanted)
            return Iteration(setting, exploration, selection, sampler, cost)
        reason = explain(exploration.rollouts, setting)
        logger.warning("Iteration %d selected nothing: %s. Exploring the next queries.", number, reason)
    raise EmptySelectionError(f"{MOST_EMPTY_ROUNDS} rounds in a row selected no response. The last one: {reason}")
