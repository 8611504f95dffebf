"""The testbed's verifier, which reads only the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..rewards.base import RewardFn, Score
from .task import answer_of


class SumMatch(RewardFn):
    """A verifier: 1 if the digit after the last `=` is right, else 0."""

    is_verifier = True
    chance = "estimate"
    columns = ("answer",)

    def score(self, prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]) -> list[Score]:
        """One score per completion; the column `answer` holds the right digit."""
        scores = []
        for found, answer in zip(map(answer_of, completions), columns["answer"], strict=True):
            right = found == str(answer)
            reason = "no answer" if found is None else "correct" if right else f"wrong answer {found}"
            scores.append(Score(float(right), reason))
        return scores
