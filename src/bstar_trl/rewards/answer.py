"""`AnswerMatch`, the verifier that compares a response's final answer with the gold answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..answers import AnswerComparer, is_gold
from .base import RewardFn, Score, column_of, refuse_value


class AnswerMatch(RewardFn):
    r"""A verifier: 1 if the response's final answer equals the gold answer, else 0, with a reason.

    The *last* answer that the response states counts: a closed `\boxed{...}`, `<answer>...</answer>`, `#### ...`,
    "the answer is ...", or "answer: ...". If the gold answer is a number and the response states nothing, its last
    number counts. Nothing in `<think>...</think>`, or after a `<think>` or in a `\boxed{` that is never closed, is an
    answer. Answers are equal if they are spelled alike, are the same number (to six decimals, without units
    and currencies; `50%` equals `50` and `0.5`), or are equal for
    [math-verify](https://github.com/huggingface/Math-Verify). math-verify runs in worker processes, which import
    neither torch nor your script. A comparison that crashes, or takes longer than `time_limit`, scores 0.

    The score is `None` (*cannot be judged*) if the gold answer is empty, is neither a text nor a number, or is a long
    text that marks no answer.

    Args:
        column (`str`): the dataset column of gold answers: a number, an answer, or a whole solution that marks its
            answer as GSM8K (`#### 42`) or MATH (`\boxed{42}`) do.
        name (`str`, *optional*): the name in logs.
        time_limit (`float`): seconds one comparison may take.
        memory_limit (`int`): bytes of address space a worker may use, 256 MiB or more.
        workers (`int`, *optional*): largest number of worker processes per training process; None: half of the cores,
            four at most. They start with the first comparison that needs one.
    """

    is_verifier = True
    chance = "estimate"

    def __init__(
        self,
        column: str = "answer",
        *,
        name: str | None = None,
        time_limit: float = 5.0,
        memory_limit: int = 2 << 30,
        workers: int | None = None,
    ):
        super().__init__(name)
        self.column = column
        self.columns = (column,)
        self._comparer = AnswerComparer(time_limit, memory_limit, workers)

    def check_row(self, row: Mapping[str, Any]) -> None:
        """Refuse a gold answer that is neither a text nor a number; `None` is left to [`score`]."""
        gold = row.get(self.column)
        if gold is not None and not is_gold(gold):
            refuse_value(gold, self.column, self.name, "gold answers: texts or numbers")

    def score(self, prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]) -> list[Score]:
        """One score per completion: 1, 0 or `None`, with a reason.

        Raises:
            DatasetError: the gold column is missing.
            RewardError: the worker processes cannot be started.
        """
        judgements = self._comparer.compare(column_of(columns, self.column, self.name), completions)
        return [Score(None if item.correct is None else float(item.correct), item.reason) for item in judgements]

    def close(self) -> None:
        """End the worker processes. The next call starts new ones."""
        self._comparer.close()
