"""All measures of a process reward model on labelled rows."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from statistics import median_low
from typing import Any

import numpy as np
from datasets import Dataset

from ..answers import final_answer, read_gold
from ..answers.notation import normal_form
from ..metrics import best_of_k, pass_at_k
from .data import IGNORED
from .measures import auc, first_error_scores, majority_vote, step_accuracy


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
    whole = [
        index
        for index, (mask, steps) in enumerate(zip(labelled, encoded["steps"], strict=True))
        if mask.all() and len(mask) == steps
    ]
    figures["first_error_rows"] = float(len(whole))
    figures |= first_error_scores([probabilities[index] for index in whole], [targets[index] for index in whole])
    chosen = rows.select(encoded["row"])
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
