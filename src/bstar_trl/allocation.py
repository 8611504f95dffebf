"""Who gets how many responses: queries are sampled a few responses at a time, until they have what is wanted of them.

Stopping on the outcome biases what is measured on these queries, so thresholds and metrics come from others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .records import Rollouts, concatenate

ROUND = 4  # most responses to a query at a time

Order = tuple[list[int], int]  # queries, responses to each


class Rounds:
    """The responses of an iteration, while they grow.

    Args:
        rollouts (`Rollouts`): the responses so far.
        ask: samples responses to orders, so many for each query; one call is one submission to the engine.
        agree: returns what the main process says. Each process computes who goes on, one decides.
        threshold (`float`): tau; a good response is correct, selectable, and has a greater reward.
    """

    def __init__(
        self,
        rollouts: Rollouts,
        ask: Callable[[Sequence[Order]], Rollouts],
        agree: Callable[[list[Order]], list[Order]],
        *,
        threshold: float,
    ):
        self.rollouts = rollouts
        self.ask = ask
        self.agree = agree
        self.threshold = threshold

    def counts(self, queries: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Good responses of each of these queries so far, and all of them; both `int64`, in their order."""
        grids = self.rollouts.grids
        good_N = (grids.selectable_NK & grids.correct_NK & (grids.rewards_NK > self.threshold)).sum(axis=1)
        tries_N = (grids.index_NK >= 0).sum(axis=1)
        asked_N = self.rollouts.query_ids_R[grids.index_NK[:, 0]].tolist()
        found = dict(zip(asked_N, zip(good_N.tolist(), tries_N.tolist(), strict=True), strict=True))
        both_N2 = np.array([found.get(query, (0, 0)) for query in queries], dtype=np.int64).reshape(-1, 2)
        return both_N2[:, 0], both_N2[:, 1]

    def until_good(self, queries: Sequence[int], *, wanted: int, most: int, budget: int | None = None) -> None:
        """Go on with each query until it has `wanted` good responses or has had `most` tries.

        A round asks a query for as many responses as it is likely to need, by its own rate so far, and for 4 at most.

        Args:
            queries (`Sequence[int]`): who takes part.
            wanted (`int`): good responses of a query, of all that it has.
            most (`int`): responses that each of them may have, of all that it has.
            budget (`int`, *optional*): most responses to sample here, for all queries together. The first of `queries`
                are served first; one that asks for more than is left leaves.
        """
        while True:
            orders = self.agree(self._orders(queries, wanted, most, budget))
            if not orders:
                return
            self.rollouts = concatenate([self.rollouts, self.ask(orders)])
            going = {query for part, _ in orders for query in part}
            queries = [query for query in queries if query in going]
            if budget is not None:
                budget -= sum(len(part) * size for part, size in orders)

    def _orders(self, queries: Sequence[int], wanted: int, most: int, budget: int | None) -> list[Order]:
        """Who goes on with how many responses, those with as many together."""
        by_size: dict[int, list[int]] = {}
        for query, good, tries in zip(queries, *self.counts(queries), strict=True):
            needed = -((good - wanted) * tries // good) if good else ROUND  # rounded up
            size = min(int(needed), ROUND, int(most - tries))
            if size <= 0 or (budget is not None and size > budget):
                continue
            by_size.setdefault(size, []).append(query)
            if budget is not None:
                budget -= size
        return [(by_size[size], size) for size in sorted(by_size, reverse=True)]
