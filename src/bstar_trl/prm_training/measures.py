"""Measures of a process reward model, from arrays of step probabilities and labels."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from ..errors import ConfigurationError

RIGHT_FROM = 0.5  # the smallest probability, of a model or a soft label, for a right step


def step_accuracy(probabilities: ArrayLike, labels: ArrayLike, *, threshold: float = RIGHT_FROM) -> float:
    """Share of steps that the model and their labels agree on.

    Args:
        probabilities (`float`, shape (steps,)): the model's probabilities that the steps are right.
        labels (`float`, shape (steps,)): in [0, 1]; a step with 0.5 or more is right.
        threshold (`float`): the smallest probability at which the model calls a step right.

    Raises:
        ConfigurationError: the shapes differ, or there are no steps.
    """
    found, truth = _aligned(probabilities, labels)
    return float(((found >= threshold) == (truth >= RIGHT_FROM)).mean())


def auc(scores: ArrayLike, truth: ArrayLike) -> float:
    """Area under the ROC curve: the chance that a right item scores above a wrong one, ties counting half.

    Args:
        scores (`float`, shape (items,)): should be higher for right items.
        truth (`bool`, shape (items,)): which items are right.

    Returns:
        `float`: in [0, 1]; NaN if all items are right or all are wrong.

    Raises:
        ConfigurationError: the shapes differ, or there are no items.
    """
    values, right = _aligned(scores, truth)
    is_right = right.astype(bool)
    positives, negatives = int(is_right.sum()), int((~is_right).sum())
    if not positives or not negatives:
        return float("nan")
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # the mean rank of equal scores, from 1 on
    above = ranks[inverse][is_right].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def first_error(probabilities: ArrayLike, *, threshold: float = RIGHT_FROM) -> int | None:
    """Index of the first step below `threshold`, or `None` without such a step."""
    wrong = np.flatnonzero(np.asarray(probabilities, dtype=np.float64) < threshold)
    return int(wrong[0]) if len(wrong) else None


def first_error_scores(
    probabilities: Sequence[ArrayLike], labels: Sequence[ArrayLike], *, threshold: float = RIGHT_FROM
) -> dict[str, float]:
    """ProcessBench's measures of finding the first wrong step (Zheng et al. 2024).

    Args:
        probabilities: for each solution, the model's probabilities that its steps are right.
        labels: for each solution, one label per step in [0, 1]; a step below 0.5 is wrong.
        threshold (`float`): the model calls a step below it wrong.

    Returns:
        `dict[str, float]`: `error_accuracy`, the share of wrong solutions in which the model finds exactly the first
        error; `right_accuracy`, the share of right solutions in which it finds no error; `first_error_f1`, their
        harmonic mean. NaN without such solutions.

    Raises:
        ConfigurationError: the numbers of solutions or steps differ.
    """
    if len(probabilities) != len(labels):
        raise ConfigurationError(f"every solution needs labels: got {len(labels)}, expected {len(probabilities)}")
    hits: dict[bool, list[bool]] = {True: [], False: []}
    for found, truth in zip(probabilities, labels, strict=True):
        _aligned(found, truth)
        expected = first_error(truth)
        hits[expected is None].append(first_error(found, threshold=threshold) == expected)
    wrong, right = (float(np.mean(hits[kind])) if hits[kind] else float("nan") for kind in (False, True))
    total = wrong + right
    f1 = 0.0 if total == 0 else 2 * wrong * right / total
    return {"error_accuracy": wrong, "right_accuracy": right, "first_error_f1": f1}


def majority_vote(answers: Sequence[Hashable | None], correct: Sequence[bool]) -> float:
    """Whether the most frequent answer among the solutions of one query is correct; ties in expectation.

    Args:
        answers: one per solution; `None`: no answer, no vote.
        correct: which solutions are correct. If solutions with equal answers differ, their correct share counts.

    Returns:
        `float`: in [0, 1]; 0 without votes.
    """
    votes: dict[Hashable, list[bool]] = {}
    for answer, right in zip(answers, correct, strict=True):
        if answer is not None:
            votes.setdefault(answer, []).append(right)
    most = max(map(len, votes.values()), default=0)
    winners = [np.mean(found) for found in votes.values() if len(found) == most]
    return float(np.mean(winners)) if winners else 0.0


def _aligned(first: ArrayLike, second: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    left, right = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if left.shape != right.shape or left.ndim != 1 or not left.size:
        raise ConfigurationError(f"each value needs one label, got shapes {left.shape} and {right.shape}")
    return left, right
