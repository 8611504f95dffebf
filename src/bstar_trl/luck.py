"""Luck: correct answers at the end of wrong reasoning, counted without seeing the reasoning.

A verifier that reads only the answer accepts a wrong response with some chance c: of the wrong responses, c are
accepted and 1 - c are not. So every wrong response that is seen stands for c / (1 - c) accepted ones that are not seen
among the correct ones. Sampling that stops once enough correct responses are found does not change this expectation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .errors import ConfigurationError

ESTIMATE = "estimate"  # in place of a chance: find out
MOST_LEARNED = 0.5  # chance that a factor may lead to: one lucky response per wrong one
MEMORY = 0.5  # weight of the luck that was trained on; measured on recordings and on the testbed (docs/luck.md)


def odds_of(chance: ArrayLike, num_queries: int) -> np.ndarray:
    """c / (1 - c) of each query: lucky responses per wrong one.

    Args:
        chance (`float`, or (N,)): how often the verifier accepts wrong reasoning, in [0, 1).
        num_queries (`int`): N.

    Returns:
        `np.ndarray` (N,).

    Raises:
        ConfigurationError: a chance is outside its range, or their number is not N.
    """
    chances = np.asarray(chance, dtype=np.float64)
    if chances.shape not in ((), (num_queries,)):
        raise ConfigurationError(
            f"chance must be a number or one per query ({num_queries}), got shape {chances.shape}"
        )
    if not ((chances >= 0) & (chances < 1)).all():
        raise ConfigurationError(f"chance must be at least 0 and below 1, got {chances}")
    return np.broadcast_to(chances / (1 - chances), (num_queries,))


def expected_lucky(
    rewards_NK: ArrayLike,
    correct_NK: ArrayLike,
    selectable_NK: ArrayLike,
    threshold: float,
    *,
    chance: ArrayLike,
    step_if_correct: ArrayLike = 1.0,
) -> np.ndarray:
    """Expected number of lucky responses of each query above a threshold.

    L = c / (1 - c) x (selectable wrong responses whose total would exceed the threshold had the verifier accepted
    them).

    Args:
        rewards_NK (`float`, N queries x K responses): total rewards.
        correct_NK (`bool`): which responses the verifier accepts.
        selectable_NK (`bool`): which responses may be selected.
        threshold (`float`): tau; the comparison is strict. `-inf`: all.
        chance (`float`, or (N,)): c, in [0, 1).
        step_if_correct (`float`, or (N, K)): what a wrong response's total would gain had the verifier accepted it.

    Returns:
        `np.ndarray` (N,), at least 0; it may exceed the number of correct responses.

    Raises:
        ConfigurationError: a chance is outside its range.
    """
    rewards = np.asarray(rewards_NK, dtype=np.float64)
    would_be = np.asarray(selectable_NK, dtype=bool) & ~np.asarray(correct_NK, dtype=bool)
    would_be = would_be & (rewards + np.asarray(step_if_correct) > threshold)
    return odds_of(chance, len(rewards)) * would_be.sum(axis=1)


def lucky_share(
    rewards_NK: ArrayLike,
    correct_NK: ArrayLike,
    selectable_NK: ArrayLike,
    threshold: float,
    *,
    chance: ArrayLike,
    step_if_correct: ArrayLike = 1.0,
) -> float:
    """Expected share of lucky responses among the correct ones above a threshold, in 0..1; 0 where none is correct.

    Arguments as of [`expected_lucky`]. A plain chance underestimates the share once the policy has learned to guess:
    see [`learned_factor`].
    """
    rewards = np.asarray(rewards_NK, dtype=np.float64)
    correct = np.asarray(correct_NK, dtype=bool) & np.asarray(selectable_NK, dtype=bool) & (rewards > threshold)
    if not correct.any():
        return 0.0
    lucky_N = expected_lucky(
        rewards_NK, correct_NK, selectable_NK, threshold, chance=chance, step_if_correct=step_if_correct
    )
    return min(1.0, float(lucky_N.sum() / correct.sum()))


def learned_factor(
    chance: ArrayLike, correct_NK: ArrayLike, selectable_NK: ArrayLike, *, trained_share: float | None
) -> float:
    """How much more often than by chance a policy guesses right that was trained on lucky responses.

    A policy that imitates what it was trained on repeats the share of lucky responses among them; a policy that learns
    the right reasoning alone guesses at chance. The estimate lies half way between the two: with all odds c / (1 - c)
    multiplied by this factor, the expected share of lucky responses among the correct ones is the mean of
    `trained_share` and the share at plain chance. No policy guesses worse than by chance, so the factor is at least 1.

    Both shares are about what the policy samples, whatever the threshold: what it imitates is what was selected.

    Args:
        chance (`float`, or (N,)): c before any training, in [0, 1).
        correct_NK (`bool`, N queries x K responses): which responses the verifier accepts.
        selectable_NK (`bool`): which responses may be selected.
        trained_share (`float`, *optional*): estimated share of lucky responses among those that the iteration before
            was trained on, in 0..1. `None`: there was none, so the factor is 1.

    Returns:
        `float`, at least 1; 1 where no luck is to be expected.

    Raises:
        ConfigurationError: a chance is outside its range.
    """
    correct, selectable = np.asarray(correct_NK, dtype=bool), np.asarray(selectable_NK, dtype=bool)
    num_lucky = float((odds_of(chance, len(correct)) * (selectable & ~correct).sum(axis=1)).sum())
    num_correct = int((selectable & correct).sum())
    if trained_share is None or num_lucky == 0 or num_correct == 0:
        return 1.0
    plain = min(1.0, num_lucky / num_correct)
    factor = ((1 - MEMORY) * plain + MEMORY * trained_share) * num_correct / num_lucky
    return max(1.0, factor)


def scaled_chance(chance: ArrayLike, factor: float) -> np.ndarray:
    """The chances, in [0, 1), whose odds are `factor` (at least 1) times those of `chance`.

    A few wrong responses among many right ones say little, and would ask for a huge factor: no chance rises above 1/2.
    """
    chances = np.asarray(chance, dtype=np.float64)
    return np.minimum(factor * chances / (1 - chances + factor * chances), np.maximum(chances, MOST_LEARNED))
