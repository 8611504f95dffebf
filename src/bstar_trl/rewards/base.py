"""`RewardFn`: what every reward of the package is, and what a user's own class can build on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Score:
    """One response's reward and why: `value` is `None` where the response cannot be judged."""

    value: float | None
    reason: str | None = None


class RewardFn(ABC):
    """A reward that TRL can call, and that knows more about itself than a function does.

    Subclasses implement [`score`]. Calling the object follows TRL's convention,
    `(prompts, completions, **columns) -> list[float | None]`, so it works in `GRPOTrainer` too.

    Attributes:
        name (`str`): what logs call it (`rewards/<name>/mean`) and what `verifier` refers to.
        is_verifier (`bool`): whether its value says *correct or not*; any other reward only moves the total.
        correct_at (`float`): a verifier's value from which on a response counts as correct.
        columns (`tuple[str, ...]`): dataset columns it needs; looked for before any weight is loaded.
        beside_generation (`bool`): whether responses are scored in parts while others are still being sampled. If
            not, [`score`] is called once with all responses of a round, when the last of them is there.
    """

    is_verifier: bool = False
    correct_at: float = 1.0
    columns: tuple[str, ...] = ()
    beside_generation: bool = True

    def __init__(self, name: str | None = None):
        self.name = name or type(self).__name__
        self.__name__ = self.name  # TRL names a reward by its `__name__`

    @abstractmethod
    def score(self, prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]) -> list[Score]:
        """Score every completion: one `Score` each, in order.

        Args:
            prompts (`Sequence`): the prompts, as they stand in the dataset (text or messages).
            completions (`Sequence[str]`): the responses' texts.
            **columns: the dataset's other columns, one value per completion.

        Raises:
            RewardError: the scorer itself failed. A bad response is data (a value with a reason), not an error.
        """

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """TRL's calling convention; conversational completions are read by their text."""
        return [item.value for item in self.score(prompts, [text_of(item) for item in completions], **columns)]

    def close(self) -> None:  # noqa: B027 - most rewards hold nothing
        """Let go of workers, files and models. The object stays usable: what is needed is started again."""


def text_of(completion: Any) -> str:
    """The text of a completion in either of TRL's forms: a string, or a list of messages."""
    if isinstance(completion, str):
        return completion
    return "".join(message["content"] for message in completion)
