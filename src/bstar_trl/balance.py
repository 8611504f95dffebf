"""The balance score (paper, section 3.1 and equation 3), and the exact threshold that maximises it.

A query with n selected responses, n' of them correct, has the score min(n' / n*, 1) * n' / n for a target of n*: it
rewards enough correct responses and few wrong ones among them. Where a verifier accepts wrong reasoning now and then,
the expected number of lucky responses is taken from n' first (`luck.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .errors import ConfigurationError, RewardError
from .luck import odds_of

SAME_REWARD = 1e-9
SAME_SCORE = 1e-12
BELOW_ALL = 1e-6  # distance below the smallest reward: a larger one would admit worse rewards that no probe has seen


def balance_score(num_correct: ArrayLike, num_selected: ArrayLike, target: float) -> np.ndarray:
    """Balance score of queries, element by element (equation 3).

    Args:
        num_correct (`int` or `float`, any shape): n', distinct correct responses among the selected ones.
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


def balance_scores(
    rewards_NK: ArrayLike,
    correct_NK: ArrayLike,
    target: float,
    threshold: float,
    *,
    selectable_NK: ArrayLike | None = None,
    chance: ArrayLike = 0.0,
    step_if_correct: ArrayLike = 1.0,
) -> np.ndarray:
    """Balance score of each query if every selectable response with a reward above `threshold` is selected.

    Args:
        rewards_NK (`float`, N queries x K responses): total rewards.
        correct_NK (`bool`): which responses are correct.
        target (`float`): n*, > 0.
        threshold (`float`): tau; the comparison is strict.
        selectable_NK (`bool`, *optional*): which responses may be selected; `None`: all.
        chance (`float`, or (N,)): how often the verifier accepts wrong reasoning, in [0, 1). The expected number of
            lucky responses (`luck.expected_lucky`) is taken from the correct ones, down to 0. 0: the paper's score.
        step_if_correct (`float`, or (N, K)): what a wrong response's total would gain had the verifier accepted it.

    Returns:
        `np.ndarray` (N,): scores in 0..1.
    """
    data = _checked(rewards_NK, correct_NK, selectable_NK, chance, step_if_correct)
    selected = data.selectable & (data.rewards > threshold)
    num_correct = (selected & data.correct).sum(axis=1)
    if data.odds_N.any():
        would_be = data.selectable & ~data.correct & (data.rewards + data.step > threshold)
        num_correct = np.maximum(num_correct - data.odds_N * would_be.sum(axis=1), 0.0)
    return balance_score(num_correct, selected.sum(axis=1), target)


def mean_balance_score(
    rewards_NK: ArrayLike,
    correct_NK: ArrayLike,
    target: float,
    threshold: float,
    *,
    selectable_NK: ArrayLike | None = None,
    chance: ArrayLike = 0.0,
    step_if_correct: ArrayLike = 1.0,
) -> float:
    """Mean over all queries of [`balance_scores`], which has the same arguments."""
    scores_N = balance_scores(
        rewards_NK,
        correct_NK,
        target,
        threshold,
        selectable_NK=selectable_NK,
        chance=chance,
        step_if_correct=step_if_correct,
    )
    return float(scores_N.mean())


def best_threshold(
    rewards_NK: ArrayLike,
    correct_NK: ArrayLike,
    target: float,
    *,
    selectable_NK: ArrayLike | None = None,
    thresholds: Sequence[float] | np.ndarray | None = None,
    chance: ArrayLike = 0.0,
    step_if_correct: ArrayLike = 1.0,
) -> tuple[float, float]:
    """The threshold with the largest mean balance score over all queries; one sort, no scan.

    The mean is piecewise constant in the threshold and changes only at observed rewards and, where `chance` is not 0,
    at the totals that wrong responses would have had, had the verifier accepted them. The candidates are one
    threshold 1e-6 below the smallest of these, and the midpoints between distinct neighbours (values within 1e-9 are
    equal). Among candidates with equal scores (within 1e-12) the highest wins.

    Args:
        rewards_NK (`float`, N queries x K responses): total rewards.
        correct_NK (`bool`): which responses are correct.
        target (`float`): n*, > 0.
        selectable_NK (`bool`, *optional*): which responses may be selected; `None`: all.
        thresholds (`Sequence[float]`, *optional*): a fixed grid to choose from instead (the paper's -1.0..1.0 in 0.1).
        chance (`float`, or (N,)): as in [`balance_scores`].
        step_if_correct (`float`, or (N, K)): as in [`balance_scores`].

    Returns:
        `(threshold, score)`: the threshold is finite; the score, in 0..1, is the mean balance score at this threshold.
        If no response is selectable, the score is 0 and the threshold is 0, or the highest of the grid.

    Raises:
        ConfigurationError: the shapes differ, an array is empty, the grid is empty or not finite, a chance is outside
            [0, 1), or a step is negative or not finite.
        RewardError: a selectable reward is not finite; the message names query and response.
    """
    data = _checked(rewards_NK, correct_NK, selectable_NK, chance, step_if_correct)
    _check_target(target)
    ordered_E, curve_E = _score_curve(data, target)
    candidates = np.unique(_candidates(ordered_E) if thresholds is None else np.asarray(thresholds, dtype=np.float64))
    if not candidates.size or not np.isfinite(candidates).all():
        raise ConfigurationError(f"thresholds must be a grid of finite numbers, got {thresholds}")
    # A threshold selects all values strictly above it: the first ones in descending order.
    num_above = len(ordered_E) - np.searchsorted(ordered_E[::-1], candidates, side="right")
    scores = np.concatenate([[0.0], curve_E])[num_above]
    best = np.flatnonzero(scores >= scores.max() - SAME_SCORE)[-1]
    threshold = float(candidates[best])
    score = mean_balance_score(
        data.rewards,
        data.correct,
        target,
        threshold,
        selectable_NK=data.selectable,
        chance=chance,
        step_if_correct=data.step,
    )
    return threshold, score


def _candidates(ordered_E: np.ndarray) -> np.ndarray:
    """Thresholds between the values, which come in descending order; 0 without values."""
    if not len(ordered_E):
        return np.zeros(1)
    ascending = ordered_E[::-1]
    lower, upper = ascending[:-1] / 2, ascending[1:] / 2  # halves, so that sums and differences stay finite
    apart = np.flatnonzero(upper - lower > SAME_REWARD / 2)
    midpoints = lower[apart] + upper[apart]
    # No float lies between neighbouring floats; the lower one as threshold still selects the upper one.
    midpoints = np.where(midpoints < ascending[apart + 1], midpoints, ascending[apart])
    below = min(ascending[0] - BELOW_ALL, math.nextafter(ascending[0], -math.inf))
    return np.concatenate([[max(below, -np.finfo(np.float64).max)], midpoints])


class _Data(NamedTuple):
    """What a score is computed from; `step` has the shape of the rewards."""

    rewards: np.ndarray
    correct: np.ndarray
    selectable: np.ndarray
    odds_N: np.ndarray
    step: np.ndarray


def _score_curve(data: _Data, target: float) -> tuple[np.ndarray, np.ndarray]:
    """The values at which the score changes, in descending order, and the mean score after each of these events.

    An event is a response that joins the selected ones (at its reward), or a wrong one that joins those that would be
    selected had the verifier accepted it (at its reward plus the step).
    """
    queries, columns = np.nonzero(data.selectable)
    values, right = data.rewards[queries, columns], data.correct[queries, columns]
    joins, doubts = np.ones(len(queries), dtype=np.int64), np.zeros(len(queries), dtype=np.int64)
    if data.odds_N.any():
        wrong = np.flatnonzero(~right & (data.odds_N[queries] > 0))
        values = np.concatenate([values, values[wrong] + data.step[queries[wrong], columns[wrong]]])
        queries = np.concatenate([queries, queries[wrong]])
        right = np.concatenate([right, np.zeros(len(wrong), dtype=bool)])
        joins = np.concatenate([joins, np.zeros(len(wrong), dtype=np.int64)])
        doubts = np.concatenate([doubts, np.ones(len(wrong), dtype=np.int64)])
    # One sort of the values; the sort by query, highest values first, is then cheap (of small integers).
    by_value = np.argsort(-values, kind="stable")
    small = np.uint16 if len(data.rewards) <= np.iinfo(np.uint16).max else np.int64
    by_query = np.argsort(queries[by_value].astype(small), kind="stable")
    order = by_value[by_query]
    queries, values, right, joins, doubts = (item[order] for item in (queries, values, right, joins, doubts))
    counts = np.bincount(queries, minlength=len(data.rewards))
    begins = np.repeat(np.cumsum(counts) - counts, counts)

    def running(changes: np.ndarray) -> np.ndarray:
        """Sums within each query, up to and including each event."""
        sums = np.concatenate([[0], np.cumsum(changes)])
        return sums[1:] - sums[begins]

    num_selected, num_correct, num_doubtful = running(joins), running(right), running(doubts)

    def score(correct: np.ndarray, selected: np.ndarray, doubtful: np.ndarray) -> np.ndarray:
        """In whole units: integer sums are exact, so equal means stay equal for any order and number of queries."""
        credited = np.maximum(correct - data.odds_N[queries] * doubtful, 0.0)
        return np.rint(balance_score(credited, selected, target) * unit).astype(np.int64)

    one = 2.0**62
    unit = one / len(data.rewards)
    change = score(num_correct, num_selected, num_doubtful)
    change -= score(num_correct - right, num_selected - joins, num_doubtful - doubts)
    change_by_value, ordered = np.empty_like(change), np.empty_like(values)
    change_by_value[by_query], ordered[by_query] = change, values
    return ordered, np.cumsum(change_by_value) / one


def _checked(
    rewards_NK: ArrayLike,
    correct_NK: ArrayLike,
    selectable_NK: ArrayLike | None,
    chance: ArrayLike,
    step_if_correct: ArrayLike,
) -> _Data:
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
    odds_N = odds_of(chance, len(rewards))
    step = np.asarray(step_if_correct, dtype=np.float64)
    if step.ndim not in (0, 2) or (step.ndim == 2 and step.shape != rewards.shape):
        raise ConfigurationError(
            f"step_if_correct must be a number or have the shape of rewards_NK, {rewards.shape}, got {step.shape}"
        )
    step = np.broadcast_to(step, rewards.shape)
    if not (np.isfinite(step) & (step >= 0)).all():
        raise ConfigurationError("step_if_correct must be finite and at least 0")
    return _Data(rewards, correct, selectable, odds_N, step)


def _check_target(target: float) -> None:
    if not (math.isfinite(target) and target > 0):
        raise ConfigurationError(f"target (n*) must be greater than 0, got {target}")
