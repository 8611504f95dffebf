"""The balance score (paper, section 3.1 and equation 3), and the exact threshold that maximises it.

A query with n selected responses, n' of them correct, has the score min(n' / n*, 1) * n' / n for a target of n*: it
rewards enough correct responses and few wrong ones among them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from .errors import ConfigurationError, RewardError

SAME_REWARD = 1e-9
SAME_SCORE = 1e-12
BELOW_ALL = 1e-6  # distance below the smallest reward: a larger one would admit worse rewards that no probe has seen


def balance_score(num_correct: ArrayLike, num_selected: ArrayLike, target: float) -> np.ndarray:
    """Balance score of queries, element by element (equation 3).

    Args:
        num_correct (`int`, any shape): n', distinct correct responses among the selected ones.
        num_selected (`int`, broadcast with it): n, selected responses.
        target (`float`): n*, correct responses wanted per query, > 0.

    Returns:
        `np.ndarray` of the broadcast shape: scores in 0..1, 0 for queries without a selected response.

    Raises:
        ConfigurationError: a count is negative or NaN, more responses are correct than selected, or the target is not
            greater than 0.
    """
    correct, selected = np.broadcast_arrays(np.asarray(num_correct), np.asarray(num_selected))
    _check_target(target)
    if not ((correct >= 0) & (correct <= selected)).all():
        raise ConfigurationError("num_correct must be in 0..num_selected for every query")
    share = np.divide(correct, selected, out=np.zeros(correct.shape), where=selected > 0)
    return np.minimum(correct, target) / target * share


def mean_balance_score(
    rewards_NK: ArrayLike,
    correct_NK: ArrayLike,
    target: float,
    threshold: float,
    *,
    selectable_NK: ArrayLike | None = None,
) -> float:
    """Mean balance score over all queries if every selectable response with a reward above `threshold` is selected.

    Args:
        rewards_NK (`float`, N queries x K responses): total rewards.
        correct_NK (`bool`): which responses are correct.
        target (`float`): n*, > 0.
        threshold (`float`): tau; the comparison is strict.
        selectable_NK (`bool`, *optional*): which responses may be selected; `None`: all.
    """
    rewards, correct, selectable = _checked(rewards_NK, correct_NK, selectable_NK)
    selected = selectable & (rewards > threshold)
    return float(balance_score((selected & correct).sum(axis=1), selected.sum(axis=1), target).mean())


def best_threshold(
    rewards_NK: ArrayLike,
    correct_NK: ArrayLike,
    target: float,
    *,
    selectable_NK: ArrayLike | None = None,
    thresholds: Sequence[float] | np.ndarray | None = None,
) -> tuple[float, float]:
    """The threshold with the largest mean balance score over all queries; one sort, no scan.

    The mean is piecewise constant in the threshold and changes only at observed rewards. The candidates are one
    threshold 1e-6 below the smallest reward, and the midpoints between neighbouring distinct rewards (rewards within
    1e-9 are equal). Among candidates with equal scores (within 1e-12) the highest wins.

    Args:
        rewards_NK (`float`, N queries x K responses): total rewards.
        correct_NK (`bool`): which responses are correct.
        target (`float`): n*, > 0.
        selectable_NK (`bool`, *optional*): which responses may be selected; `None`: all.
        thresholds (`Sequence[float]`, *optional*): a fixed grid to choose from instead (the paper's -1.0..1.0 in 0.1).

    Returns:
        `(threshold, score)`: the threshold is finite; the score, in 0..1, is the mean balance score at this threshold.
        If no response is selectable, the score is 0 and the threshold is 0, or the highest of the grid.

    Raises:
        ConfigurationError: the shapes differ, an array is empty, or the grid is empty or not finite.
        RewardError: a selectable reward is not finite; the message names query and response.
    """
    rewards, correct, selectable = _checked(rewards_NK, correct_NK, selectable_NK)
    _check_target(target)
    ordered_R, curve_R = _score_curve(rewards, correct, selectable, target)
    candidates = np.unique(_candidates(ordered_R) if thresholds is None else np.asarray(thresholds, dtype=np.float64))
    if not candidates.size or not np.isfinite(candidates).all():
        raise ConfigurationError(f"thresholds must be a grid of finite numbers, got {thresholds}")
    # A threshold selects all rewards strictly above it: the first ones in descending order.
    num_selected = len(ordered_R) - np.searchsorted(ordered_R[::-1], candidates, side="right")
    scores = np.concatenate([[0.0], curve_R])[num_selected]
    best = np.flatnonzero(scores >= scores.max() - SAME_SCORE)[-1]
    threshold = float(candidates[best])
    return threshold, mean_balance_score(rewards, correct, target, threshold, selectable_NK=selectable)


def _candidates(ordered_R: np.ndarray) -> np.ndarray:
    """Thresholds between the rewards, which come in descending order; 0 without rewards."""
    if not len(ordered_R):
        return np.zeros(1)
    ascending = ordered_R[::-1]
    lower, upper = ascending[:-1] / 2, ascending[1:] / 2  # halves, so that sums and differences stay finite
    apart = np.flatnonzero(upper - lower > SAME_REWARD / 2)
    midpoints = lower[apart] + upper[apart]
    # No float lies between neighbouring floats; the lower one as threshold still selects the upper one.
    midpoints = np.where(midpoints < ascending[apart + 1], midpoints, ascending[apart])
    below = min(ascending[0] - BELOW_ALL, math.nextafter(ascending[0], -math.inf))
    return np.concatenate([[max(below, -np.finfo(np.float64).max)], midpoints])


def _score_curve(
    rewards: np.ndarray, correct: np.ndarray, selectable: np.ndarray, target: float
) -> tuple[np.ndarray, np.ndarray]:
    """Rewards of the selectable responses in descending order, and the mean score after selecting each of them."""
    queries, columns = np.nonzero(selectable)
    values, right = rewards[queries, columns], correct[queries, columns]
    order = np.lexsort((-values, queries))  # query by query, best rewards first
    queries, values, right = queries[order], values[order], right[order]
    counts = np.bincount(queries, minlength=len(rewards))
    begins = np.repeat(np.cumsum(counts) - counts, counts)
    num_selected = np.arange(len(queries)) - begins + 1
    running = np.concatenate([[0], np.cumsum(right)])
    num_correct = running[1:] - running[begins]
    # The change of the query's score when this response joins the better ones, in whole units: integer sums are
    # exact, so equal means stay equal for any order and number of queries.
    one = 2.0**62
    unit = one / len(rewards)
    score = np.rint(balance_score(num_correct, num_selected, target) * unit).astype(np.int64)
    before = np.rint(balance_score(num_correct - right, num_selected - 1, target) * unit).astype(np.int64)
    by_reward = np.argsort(-values, kind="stable")
    return values[by_reward], np.cumsum((score - before)[by_reward]) / one


def _checked(
    rewards_NK: ArrayLike, correct_NK: ArrayLike, selectable_NK: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rewards = np.asarray(rewards_NK, dtype=np.float64)
    correct = np.asarray(correct_NK, dtype=bool)
    selectable = np.ones(rewards.shape, dtype=bool) if selectable_NK is None else np.asarray(selectable_NK, dtype=bool)
    if rewards.ndim != 2 or 0 in rewards.shape:
        raise ConfigurationError(
            f"rewards_NK must be a matrix with at least one query and response, got shape {rewards.shape}"
        )
    if not rewards.shape == correct.shape == selectable.shape:
        raise ConfigurationError(
            f"rewards_NK, correct_NK and selectable_NK must align: got {rewards.shape}, {correct.shape} and "
            f"{selectable.shape}"
        )
    broken = np.argwhere(selectable & ~np.isfinite(rewards))
    if len(broken):
        query, response = broken[0]
        raise RewardError(
            f"rewards_NK must be finite where a response is selectable, got {rewards[query, response]} for response "
            f"{response} of query {query}"
        )
    return rewards, correct, selectable


def _check_target(target: float) -> None:
    if not (math.isfinite(target) and target > 0):
        raise ConfigurationError(f"target (n*) must be greater than 0, got {target}")
