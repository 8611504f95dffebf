"""How often the verifiers accept wrong reasoning: told by themselves, or measured on answers to other queries."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np
from accelerate.utils import gather_object

from ..errors import ConfigurationError
from ..luck import ESTIMATE
from ..records import Rollouts, Rows
from ..rewards.base import RewardFn
from .scoring import Scorer
from .store import RolloutStore

MOST_RESPONSES = 512  # that are compared with the gold answers of other queries, per iteration, by all verifiers


class Chances:
    """The chance of each query, by its verifier: `RewardFn.chance_of`, or the attribute `chance` of another function.

    An estimate is made once, on the first responses to at least two queries that ended by themselves: how many of them
    the verifier accepts as answers to another query, drawn at random. Equal golds count, as they do for a lucky
    response. Until then the chance is 0.

    Args:
        scorer (`Scorer`): the reward functions.
        rows (`Rows`): the dataset row of each query id.
        store (`RolloutStore`): this process's responses.
        trainer_state: passed on to the reward functions.
    """

    def __init__(self, scorer: Scorer, rows: Rows, store: RolloutStore, trainer_state: Any):
        self.scorer = scorer
        self.rows = rows
        self.store = store
        self.trainer_state = trainer_state
        self._estimates: dict[int, float] = {}  # by verifier

    def of(self, rollouts: Rollouts, *, seed: int) -> np.ndarray:
        """The chance of each response, in [0, 1). A collective.

        Args:
            rollouts (`Rollouts`): scored responses, the same on all processes.
            seed (`int`): of the draw of other queries.

        Raises:
            ConfigurationError: a reward function's `chance` is neither a number in [0, 1), nor `"estimate"`, nor None.
        """
        verifiers = self.scorer.verifiers
        judges_R = verifiers.judges(rollouts.values_RF, rollouts.query_ids_R)
        chance_R = np.zeros(len(rollouts))
        for place, index in enumerate(verifiers.indices):
            mine_R = judges_R == place
            queries, inverse = np.unique(rollouts.query_ids_R[mine_R], return_inverse=True)
            function, name = self.scorer.functions[index], self.scorer.names[index]
            if isinstance(function, RewardFn) and type(function).chance_of is not RewardFn.chance_of:
                told = [chance_told(function, name, self.rows[query_id]) for query_id in queries.tolist()]
            else:  # no row need be read
                told = [chance_told(function, name, {})] * len(queries)
            if ESTIMATE in told and index not in self._estimates:
                estimate = self._estimate(index, rollouts.take(mine_R & rollouts.ended_R), seed)
                if estimate is not None:
                    self._estimates[index] = estimate
            chance_N = [self._estimates.get(index, 0.0) if item == ESTIMATE else float(item) for item in told]
            chance_R[mine_R] = np.array(chance_N)[inverse] if chance_N else 0.0
        return chance_R

    def _estimate(self, index: int, rollouts: Rollouts, seed: int) -> float | None:
        """The share of these responses that the verifier accepts as answers to other queries among theirs, below 1;
        `None` if there is no other query."""
        limit = self.scorer.verifiers.limits[self.scorer.verifiers.indices.index(index)]
        queries, own_R = np.unique(rollouts.query_ids_R, return_inverse=True)
        if limit is None:
            return 0.0
        if len(queries) < 2:
            return None
        rng = np.random.default_rng([seed, 3])
        chosen = np.sort(rng.permutation(len(rollouts))[: MOST_RESPONSES // len(self.scorer.verifiers.indices)])
        others = rng.integers(len(queries) - 1, size=len(chosen))
        others += others >= own_R[chosen]  # any query but the response's own
        mine = self.store.mine(rollouts.rows_R[chosen])
        asked = [self.rows[int(queries[others[position]])] for position in mine]
        values = self.scorer.judge(index, list(mine.values()), asked, self.trainer_state)
        given = [value for part in gather_object([values]) for value in part if value is not None]
        # One more than were asked: a verifier that accepts everything still has a chance below 1, and finite odds.
        return sum(value >= limit for value in given) / (len(given) + 1)


def chance_told(function: Any, name: str, row: Mapping[str, Any]) -> float | str:
    """What a reward function says of the chance of a row: a number, or `"estimate"`; 0 where it says nothing.

    Raises:
        ConfigurationError: it is neither a number in [0, 1), nor `"estimate"`, nor None.
    """
    chance = function.chance_of(row) if isinstance(function, RewardFn) else getattr(function, "chance", None)
    if chance is None or chance == ESTIMATE:
        return chance or 0.0
    if not isinstance(chance, numbers.Real) or not 0 <= float(chance) < 1:
        raise ConfigurationError(
            f"the chance of reward function '{name}' must be a number in [0, 1), 'estimate' or None, got {chance!r}"
        )
    return float(chance)
