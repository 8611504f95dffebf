"""Selecting the responses that an iteration trains on: a mask, a threshold, a cap per query, a budget."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from .errors import ConfigurationError, RewardError


def selectable_mask(text_ids_NK: ArrayLike, eligible_NK: ArrayLike) -> np.ndarray:
    """Eligible responses that are the first with their text among their query's eligible ones.

    Args:
        text_ids_NK (any comparable type, N queries x K responses): equal for equal texts.
        eligible_NK (`bool`): the response ended by itself and could be judged.

    Returns:
        `np.ndarray` of `bool`, (N, K).

    Raises:
        ConfigurationError: the inputs are not matrices of one shape.
    """
    text_ids, eligible = np.asarray(text_ids_NK), np.asarray(eligible_NK, dtype=bool)
    if text_ids.ndim != 2 or text_ids.shape != eligible.shape:
        raise ConfigurationError(
            f"text_ids_NK and eligible_NK must be matrices of one shape, got {text_ids.shape} and {eligible.shape}"
        )
    queries, columns = np.nonzero(eligible)
    ids = text_ids[queries, columns]
    order = np.lexsort((columns, ids, queries))
    queries, columns, ids = queries[order], columns[order], ids[order]
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = (queries[1:] != queries[:-1]) | (ids[1:] != ids[:-1])
    mask = np.zeros(eligible.shape, dtype=bool)
    mask[queries[is_first], columns[is_first]] = True
    return mask


def select(
    rewards_NK: ArrayLike,
    selectable_NK: ArrayLike,
    threshold: float,
    *,
    budget: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Choose at most `budget` responses whose reward exceeds the threshold, spread over the queries.

    The cap per query is the smallest m with sum_i min(n_i, m) >= budget. Each query contributes its best responses up
    to the cap, ties broken by `rng`; the surplus is dropped at random from the queries that contribute m.

    Args:
        rewards_NK (`float`, N queries x K responses): total rewards.
        selectable_NK (`bool`): which responses may be selected.
        threshold (`float`): tau; the comparison is strict.
        budget (`int`): M, at least 1.
        rng (`np.random.Generator`): breaks ties and drops the surplus.

    Returns:
        `np.ndarray` of `int64`, (M, 2): query and response, in ascending order; fewer rows if fewer responses qualify.

    Raises:
        ConfigurationError: the budget is below 1, the shapes differ, or the threshold is NaN.
        RewardError: a selectable reward is NaN.
    """
    rewards, selectable = np.asarray(rewards_NK, dtype=np.float64), np.asarray(selectable_NK, dtype=bool)
    if rewards.ndim != 2 or rewards.shape != selectable.shape:
        raise ConfigurationError(
            f"rewards_NK and selectable_NK must be matrices of one shape, got {rewards.shape} and {selectable.shape}"
        )
    if budget < 1:
        raise ConfigurationError(f"budget must be at least 1, got {budget}")
    if math.isnan(threshold):
        raise ConfigurationError("threshold must be a number, got nan")
    broken = np.argwhere(selectable & np.isnan(rewards))
    if len(broken):
        raise RewardError(f"rewards_NK holds NaN for response {broken[0][1]} of query {broken[0][0]}")
    queries, columns = np.nonzero(selectable & (rewards > threshold))
    # Rank within each query: best reward first, equal rewards in random order.
    order = np.lexsort((rng.random(len(queries)), -rewards[queries, columns], queries))
    queries, columns = queries[order], columns[order]
    counts = np.bincount(queries, minlength=len(rewards))
    ranks = np.arange(len(queries)) - np.repeat(np.cumsum(counts) - counts, counts)
    cap = _cap(counts, budget)
    kept = ranks < cap
    surplus = int(kept.sum()) - budget
    if surplus > 0:
        full = np.flatnonzero(ranks == cap - 1)  # the m-th response of every query that holds m
        kept[rng.choice(full, size=surplus, replace=False)] = False
    chosen = np.stack([queries[kept], columns[kept]], axis=1)
    return chosen[np.lexsort((chosen[:, 1], chosen[:, 0]))]


def _cap(counts_N: np.ndarray, budget: int) -> int:
    """The smallest m with sum_i min(counts_i, m) >= budget, or the largest count if no m suffices."""
    largest = int(counts_N.max(initial=0))
    holders = np.bincount(counts_N, minlength=largest + 1)[::-1].cumsum()[::-1]  # queries with at least m responses
    totals = np.cumsum(holders[1:])  # sum_i min(counts_i, m) for m = 1, 2, ...
    return min(int(np.searchsorted(totals, budget)) + 1, largest)
