"""From a row of the dataset and a response to what a process reward model reads: a question and steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import DatasetError

Split = str | Callable[[str], Sequence[str]]


def split_steps(response: str, split: Split) -> list[str]:
    """The steps of a response, without the white space around them; what is white space alone is no step.

    Args:
        response (`str`): the response's text.
        split (`str` or callable): the text that separates two steps, or a function from a response to its steps.

    Returns:
        `list[str]`: possibly empty.
    """
    parts = response.split(split) if isinstance(split, str) else split(response)
    return [stripped for part in parts if (stripped := part.strip())]


def question_of(prompt: Any) -> str:
    """The question that a prompt asks: a text as it is; of a conversation, what the user says last.

    Raises:
        DatasetError: a conversation without a user's message, or with a message that is no text.
    """
    if isinstance(prompt, str):
        return prompt
    said = [message["content"] for message in prompt if message["role"] == "user"]
    if not said or not isinstance(said[-1], str):
        raise DatasetError(f"a process reward needs a question: the user's last message, as text; got {prompt!r}")
    return str(said[-1])
