"""`RewardFn`, the base class of the package's rewards and of a user's own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from ..errors import DatasetError


@dataclass(frozen=True)
class Score:
    """One response's reward and the reason for it; `value` is `None` if the response cannot be judged."""

    value: float | None
    reason: str | None = None


class RewardFn(ABC):
    """A reward function for TRL that declares its role and the dataset columns it needs.

    Subclasses implement [`score`]. Calling the object follows TRL's convention,
    `(prompts, completions, **columns) -> list[float | None]`, so it works in `GRPOTrainer` too.

    Attributes:
        name (`str`): the name in logs (`rewards/<name>/mean`) and for `verifier`.
        is_verifier (`bool`): whether the value decides if a response is correct; other rewards only change the total.
        correct_at (`float`): the smallest value of a verifier for a correct response.
        chance (`float`, `"estimate"` or `None`): how often a verifier accepts wrong reasoning, in [0, 1).
            `"estimate"`: measured in each iteration, as the share of responses that it accepts as answers to other
            queries. `None`: never, or unknown. A subclass whose rows differ replaces [`chance_of`].
        columns (`tuple[str, ...]`): the dataset columns that it needs; checked before any weight is loaded.
        beside_generation (`bool`): whether the trainer scores finished responses while others are sampled. If not, it
            calls [`score`] once per round, with all responses.
    """

    is_verifier: bool = False
    correct_at: float = 1.0
    chance: float | Literal["estimate"] | None = None
    columns: tuple[str, ...] = ()
    beside_generation: bool = True

    def __init__(self, name: str | None = None):
        self.name = name or type(self).__name__
        self.__name__ = self.name  # TRL names a reward by its `__name__`

    def check_row(self, row: Mapping[str, Any]) -> None:  # noqa: B027 - most rewards take any row
        """Refuse a dataset row whose columns are of a kind that no response can be scored against.

        The trainer calls it with the first rows of a dataset, before any weight is loaded.

        Raises:
            DatasetError: says which column, what it holds, and what to do.
        """

    def chance_of(self, row: Mapping[str, Any]) -> float | Literal["estimate"] | None:
        """`chance` for the responses to a dataset row."""
        return self.chance

    @abstractmethod
    def score(self, prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]) -> list[Score]:
        """Score every completion: one `Score` each, in order.

        Args:
            prompts (`Sequence`): the prompts of the dataset (text or messages).
            completions (`Sequence[str]`): the responses' texts.
            **columns: the dataset's other columns, one value per completion.

        Raises:
            RewardError: the scorer itself failed. A bad response is data (a value with a reason), not an error.
        """

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """TRL's calling convention; of conversational completions the text is scored."""
        return [item.value for item in self.score(prompts, [text_of(item) for item in completions], **columns)]

    def close(self) -> None:  # noqa: B027 - most rewards hold nothing
        """Release workers, files and models. The next call starts them again."""


def text_of(completion: Any) -> str:
    """The text of a completion in either of TRL's forms: a string, or a list of messages."""
    if isinstance(completion, str):
        return completion
    return "".join(text_of_content(message["content"]) for message in completion)


def text_of_content(content: Any) -> str:
    """The text of a message's content: a string, a list of parts (`{"type": "text", "text": ...}`), or None."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content or ())


def refuse_value(value: Any, column: str, reward: str, expected: str) -> NoReturn:
    """Say that a dataset's column holds a value of the wrong kind, and what to do."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    found, right = f"a {kind}", f"str(row[{column!r}])"
    if isinstance(value, Mapping):
        found = f"a {kind} with the keys {', '.join(map(repr, value))}"
        key = next((key for key in ("ground_truth", "answer", "label") if key in value), "<the key that holds it>")
        right = f"row[{column!r}][{key!r}]"
    elif isinstance(value, list | tuple):
        right = f"row[{column!r}][<the place that holds it>]"
    remedy = f"make it so with dataset.map(lambda row: {{{column!r}: {right}}})"
    if hasattr(value, "dtype"):
        remedy = "take the format away with dataset.with_format(None)"
    raise DatasetError(f"reward '{reward}': column '{column}' must hold {expected}, but holds {found}: {remedy}")


def column_of(columns: Mapping[str, Any], name: str, reward: str) -> Sequence[Any]:
    """The column called `name`.

    Raises:
        DatasetError: there is no such column; the message names the reward and the columns.
    """
    if name not in columns:
        raise DatasetError(
            f"reward '{reward}' needs the dataset column '{name}', but got {', '.join(columns) or 'no columns'}"
        )
    found: Sequence[Any] = columns[name]
    return found
