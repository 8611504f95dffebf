"""`AnswerMatch`: is the final answer of a response the gold one?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..answers import AnswerComparer
from .base import RewardFn, Score
from .columns import column_of


class AnswerMatch(RewardFn):
    r"""1 where the response's final answer equals the gold one, else 0, with a reason: a verifier.

    The response is judged by the *last* answer it states: a closed `\boxed{...}`, `<answer>...</answer>`, `#### ...`,
    "the answer is ...", or "answer: ..."; where the gold is a number and nothing is stated, by its last number.
    Answers are equal if they are spelled alike, are the same number (to six decimals, without units and currencies;
    `50%` equals `50` and `0.5`), or are equal to [math-verify](https://github.com/huggingface/Math-Verify). That runs
    in worker processes, which import neither torch nor your script: a comparison that takes longer than `time_limit`
    is ended, and scores 0 as one that crashes does.

    `None`, *cannot be judged*, is given where the gold itself cannot be read: empty, neither text nor a number, or a
    long text that marks no answer.

    Args:
        column (`str`): the dataset column of gold answers: a number, an answer, or a whole solution that marks its
            answer as GSM8K (`#### 42`) or MATH (`\boxed{42}`) do.
        name (`str`, *optional*): what logs call it.
        time_limit (`float`): seconds one comparison may take.
        memory_limit (`int`): bytes of address space a worker may use, 256 MiB or more.
        workers (`int`, *optional*): worker processes at most, per training process; None: half of the cores, four at
            most. They start at the first comparison that needs one.
    """

    is_verifier = True

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

    def score(self, prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]) -> list[Score]:
        """One score per completion: 1, 0 or `None`, and why.

        Raises:
            DatasetError: the gold column is missing.
            RewardError: the worker processes cannot be started.
        """
        verdicts = self._comparer.compare(column_of(columns, self.column, self.name), completions)
        return [Score(None if item.correct is None else float(item.correct), item.reason) for item in verdicts]

    def close(self) -> None:
        """End the worker processes. The next call starts new ones."""
        self._comparer.close()
