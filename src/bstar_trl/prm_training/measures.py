"""How good a process reward model is, from its step probabilities and the labels: plain arrays in, numbers out."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from ..errors import ConfigurationError

RIGHT_FROM = 0.5  # a probability from which on a step counts as right, a model's or a soft label


def step_accuracy(probabilities: ArrayLike, labels: ArrayLike, *, threshold: float = RIGHT_FROM) -> float:
    """Share of steps that the model calls right or wrong as their labels do.

    Args:
        probabilities (`float`, any number of steps): the model's, that the step is right.
        labels (`float`, as many): in [0, 1]; from 0.5 on a step is right.
        threshold (`float`): the probability from which on the model calls a step right.

    Raises:
        ConfigurationError: numbers of steps that differ, or none.
    """
    found, truth = _aligned(probabilities, labels)
    return float(((found >= threshold) == (truth >= RIGHT_FROM)).mean())


def auc(scores: ArrayLike, truth: ArrayLike) -> float:
    """Area under the ROC curve: how often a right one scores above a wrong one, ties counting half.

    Args:
        scores (`float`, any number): what should be higher for right ones.
        truth (`bool`, as many): which are right.

    Returns:
        `float`: in [0, 1]; NaN where all are right or all are wrong.

    Raises:
        ConfigurationError: numbers that differ, or none.
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
    """Index of the first step below `threshold`, or `None` where there is none."""
    wrong = np.flatnonzero(np.asarray(probabilities, dtype=np.float64) < threshold)
    return int(wrong[0]) if len(wrong) else None


def first_error_scores(
    probabilities: Sequence[ArrayLike], labels: Sequence[ArrayLike], *, threshold: float = RIGHT_FROM
) -> dict[str, float]:
    """ProcessBench's measure: is the first wrong step found, and none in right solutions (Zheng et al. 2024)?

    Args:
        probabilities: the model's for each solution's steps.
        labels: each solution's, one per step, in [0, 1]; a step below 0.5 is wrong.
        threshold (`float`): the probability below which the model calls a step wrong.

    Returns:
        `dict[str, float]`: `error_accuracy`, the share of wrong solutions whose first error is found exactly;
        `right_accuracy`, the share of right ones in which none is found; `first_error_f1`, their harmonic mean. NaN
        where there are no such solutions.

    Raises:
        ConfigurationError: numbers of solutions or steps that differ.
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
        answers: one per solution, equal ones the same; `None`: no answer, no vote.
        correct: which solutions are correct. Where equal answers differ in it, their share of correct ones counts.

    Returns:
        `float`: in [0, 1]; 0 where nobody votes.
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
