"""A response's steps, and a prompt's text: what a process reward model reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import DatasetError
from .layout import SEPARATOR

Split = str | Callable[[str], Sequence[str]]


def step_spans(response: str, separator: str = SEPARATOR) -> list[tuple[int, int]]:
    r"""Where the steps of a response begin and end: the pieces between separators, those of white space left out.

    For a separator of line breaks alone a break may be `\r\n` as well.
    """
    pattern = separator.replace("\n", r"\r?\n") if not separator.strip("\n") else re.escape(separator)
    breaks = [match.span() for match in re.finditer(pattern, response)]
    starts = [0, *(end for _, end in breaks)]
    ends = [*(start for start, _ in breaks), len(response)]
    return [(start, end) for start, end in zip(starts, ends, strict=True) if response[start:end].strip()]


def split_steps(response: str, split: Split = SEPARATOR) -> list[str]:
    """The steps of a response, verbatim, without the separators; an empty response has none.

    Args:
        response (`str`): the response's text.
        split (`str` or callable): the text that separates two steps, or a function from a response to its steps.
    """
    if isinstance(split, str):
        return [response[start:end] for start, end in step_spans(response, split)]
    return [step for step in split(response) if step.strip()]


def prompt_text(prompt: Any) -> str:
    """The text of a prompt in either of TRL's forms: a string as it is; of messages, what the user says last.

    Raises:
        DatasetError: messages without a user's, or with a last one that is no text.
    """
    if isinstance(prompt, str):
        return prompt
    said = [message["content"] for message in prompt if message["role"] == "user"]
    if not said or not isinstance(said[-1], str):
        raise DatasetError(f"a process reward needs a question: the user's last message, as text; got {prompt!r}")
    return str(said[-1])
