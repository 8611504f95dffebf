"""Who gets how many responses: queries are sampled a few responses at a time, until they have what is wanted of them.

Stopping on the outcome biases what is measured on these queries, so thresholds and metrics come from others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .records import Rollouts, concatenate

ROUND = 4  # responses to a query at a time


class Rounds:
    """The responses of an iteration, while they grow.

    Args:
        rollouts (`Rollouts`): the responses so far.
        ask: samples responses: `ask(queries, n)` gives n for each; one call is one submission to the engine.
        agree: returns what the main process says. Each process computes who goes on, one decides.
        threshold (`float`): tau; a good response is correct, selectable, and has a greater reward.
    """

    def __init__(
        self,
        rollouts: Rollouts,
        ask: Callable[[Sequence[int], int], Rollouts],
        agree: Callable[[list[int]], list[int]],
        *,
        threshold: float,
    ):
        self.rollouts = rollouts
        self.ask = ask
        self.agree = agree
        self.threshold = threshold

    def num_good(self, queries: Sequence[int]) -> np.ndarray:
        """Good responses of each of these queries so far; `int64`, in their order."""
        grids = self.rollouts.grids
        good_N = (grids.selectable_NK & grids.correct_NK & (grids.rewards_NK > self.threshold)).sum(axis=1)
        found = dict(zip(self.rollouts.query_ids_R[grids.index_NK[:, 0]].tolist(), good_N.tolist(), strict=True))
        return np.array([found.get(query, 0) for query in queries], dtype=np.int64)

    def until_good(
        self, queries: Sequence[int], *, wanted: int, tries: int, most: int, budget: int | None = None
    ) -> None:
        """Go on with each query until it has `wanted` good responses or has had `most` tries.

        Args:
            queries (`Sequence[int]`): who takes part.
            wanted (`int`): good responses of a query, of all that it has.
            tries (`int`): responses that each of them had before.
            most (`int`): responses that each of them may have in all.
            budget (`int`, *optional*): most responses to sample here, for all queries together.
        """
        while (size := min(ROUND, most - tries)) > 0:
            missing = self.num_good(queries) < wanted
            going = [query for query, is_missing in zip(queries, missing, strict=True) if is_missing]
            queries = self.agree(going if budget is None else going[: budget // size])
            if not queries:
                return
            self.rollouts = concatenate([self.rollouts, self.ask(queries, size)])
            tries += size
            if budget is not None:
                budget -= size * len(queries)
