"""The testbed's verifier, which reads only the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..rewards.base import RewardFn, Score
from .task import answer_of


class SumMatch(RewardFn):
    """A verifier: 1 if the digit after the last `=` is right, else 0."""

    is_verifier = True
    columns = ("answer",)

    def score(self, prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]) -> list[Score]:
        """One score per completion; the column `answer` holds the right digit."""
        return [_compare(text, answer) for text, answer in zip(completions, columns["answer"], strict=True)]


def _compare(text: str, answer: Any) -> Score:
    found = answer_of(text)
    if found is None:
        return Score(0.0, "no answer")
    return Score(1.0, "correct") if found == str(answer) else Score(0.0, f"wrong answer {found}")
