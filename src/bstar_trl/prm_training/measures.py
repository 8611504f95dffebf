"""Measures of a process reward model: from arrays of step probabilities and labels, and from labelled rows."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from statistics import median_low
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import ArrayLike

from ..answers import final_answer, read_gold
from ..answers.notation import normal_form
from ..errors import ConfigurationError
from ..metrics import best_of_k, pass_at_k
from .data import IGNORED

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


def evaluate_steps(probabilities: Sequence[np.ndarray], encoded: Dataset, rows: Dataset) -> dict[str, float]:
    """Every measure that the rows allow.

    Args:
        probabilities: for each encoded row, the model's probabilities that its steps are right.
        encoded (`Dataset`): of `encode_rows`.
        rows (`Dataset`): the rows that `encoded` was made of.

    Returns:
        `dict[str, float]`: `step_accuracy` and `step_auc` over the labelled `steps`; `first_error_f1`,
        `error_accuracy` and `right_accuracy` over the `first_error_rows`, whose steps all have labels and fit the
        length; and the figures of `best_of`. A measure that is NaN on these rows is left out.
    """
    targets = [np.array(row) for row in encoded["targets"]]
    labelled = [row != IGNORED for row in targets]
    flat = np.concatenate([row[mask] for row, mask in zip(probabilities, labelled, strict=True)])
    truth = np.concatenate([row[mask] for row, mask in zip(targets, labelled, strict=True)])
    figures = {
        "steps": float(len(truth)),
        "step_accuracy": step_accuracy(flat, truth),
        "step_auc": auc(flat, truth >= 0.5),
    }
    chosen = rows.select(encoded["row"])
    # A row is whole if each of its steps has a label in its place; parts of a step have none, except the last part.
    whole = [
        index
        for index, (mask, labels) in enumerate(zip(labelled, chosen["labels"], strict=True))
        if mask.sum() == len(labels)
    ]
    figures["first_error_rows"] = float(len(whole))
    figures |= first_error_scores(
        [probabilities[index][labelled[index]] for index in whole],
        [targets[index][labelled[index]] for index in whole],
    )
    figures |= best_of(chosen, [float(row.min()) for row in probabilities])
    return {name: value for name, value in figures.items() if not math.isnan(value)}


def best_of(rows: Dataset, scores: Sequence[float]) -> dict[str, float]:
    """Best-of-K by the lowest step score, and a majority vote, chance and an oracle on the same K solutions.

    Only solutions with a value in the column `correct` count. K is the (lower) median of their number per prompt; the
    first K of each prompt are used, and prompts with fewer are left out. A solution's answer is its `final_answer`,
    else the answer that its last step states, else its last step.

    Returns:
        `dict[str, float]`: `best_of_k`, `majority`, `pass@1`, `pass@k`, over `best_of_prompts` prompts with K = `k`;
        empty if K is below 2.
    """
    groups: dict[str, list[int]] = {}
    for index, (prompt, correct) in enumerate(zip(rows["prompt"], rows["correct"], strict=True)):
        if correct is not None:
            groups.setdefault(prompt, []).append(index)
    k = median_low(map(len, groups.values())) if groups else 0
    if k < 2:
        return {}
    chosen = [group[:k] for group in groups.values() if len(group) >= k]
    correct = np.array(rows["correct"])
    correct_NK = correct[chosen].astype(bool)
    scores_NK = np.array(scores)[chosen]
    answers = [_answer(rows[index]) for index in range(len(rows))]
    votes = [majority_vote([answers[index] for index in group], correct[group].tolist()) for group in chosen]
    return {
        "best_of_prompts": float(len(chosen)),
        "k": float(k),
        "pass@1": float(pass_at_k(correct_NK, 1)),
        "majority": float(np.mean(votes)),
        "best_of_k": float(best_of_k(scores_NK, correct_NK)),
        "pass@k": float(pass_at_k(correct_NK)),
    }


def _answer(row: dict[str, Any]) -> Hashable | None:
    """A key that answers share if they are the same number, or differ only in spelling."""
    last = row["completions"][-1]
    text = row["final_answer"] or final_answer(last) or last
    gold = read_gold(text)
    if gold.problem is not None:
        return None
    return gold.numeral.value if gold.numeral is not None else normal_form(gold.answer)


def _aligned(first: ArrayLike, second: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    left, right = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if left.shape != right.shape or left.ndim != 1 or not left.size:
        raise ConfigurationError(f"each value needs one label, got shapes {left.shape} and {right.shape}")
    return left, right
