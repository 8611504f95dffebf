"""The steps of a response: splitting a text into them, and laying them out as tokens; and the question of a prompt."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from ..errors import DatasetError

SEPARATOR = "\n"
Split = str | Callable[[str], Sequence[str]]


class Layout(NamedTuple):
    """A response as a model reads it: token ids, and for each step the position whose output judges it, ascending."""

    token_ids: list[int]
    positions: list[int]


def lay_out_steps(tokenizer: Any, prompt: str, steps: Sequence[str], *, separator: str = SEPARATOR) -> Layout:
    """Lay out a prompt and the steps of a response as in TRL's stepwise supervision.

    The prompt comes first, then each step and the separator; the last token of the separator bears the step's label.
    Prompt, steps and separator are tokenised one by one and joined, so that the tokens of a step do not depend on the
    next step. The tokenizer's BOS, if it has one, stands first. Training and scoring share this function, so a model
    scores the layout that it was trained on. A step that holds the separator is laid out as several (see `reread`).
    """

    def tokens(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    token_ids = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    token_ids += tokens(prompt)
    separator_ids = tokens(separator)
    positions = []
    for step in reread(steps, separator)[0]:
        token_ids += tokens(step) + separator_ids
        positions.append(len(token_ids) - 1)
    return Layout(token_ids, positions)


def step_spans(response: str, separator: str = SEPARATOR) -> list[tuple[int, int]]:
    r"""Start and end of each step of a response: the pieces between separators that are not white space alone.

    If the separator consists of line breaks, `\r\n` counts as a line break too.
    """
    pattern = separator.replace("\n", r"\r?\n") if not separator.strip("\n") else re.escape(separator)
    breaks = [match.span() for match in re.finditer(pattern, response)]
    starts = [0, *(end for _, end in breaks)]
    ends = [*(start for start, _ in breaks), len(response)]
    return [(start, end) for start, end in zip(starts, ends, strict=True) if response[start:end].strip()]


def reread(steps: Sequence[str], separator: str = SEPARATOR) -> tuple[list[str], list[int | None]]:
    """The steps as they come out of a response that joins them with the separator.

    A step that holds the separator becomes several, as it does when a response is scored, and separators at a step's
    edges go. Steps without separators are returned as they are.

    Args:
        steps (`Sequence[str]`): the steps of one response, in order.
        separator (`str`): the text between two steps.

    Returns:
        `(list[str], list[int | None])`: the steps read; and for each given step the index of the one that ends it,
            `None` for a step that holds nothing but separators and white space.
    """
    starts = [0, *accumulate(len(step) + len(separator) for step in steps)]
    text = separator.join(steps)
    spans = step_spans(text, separator)
    firsts = [first for first, _ in spans]
    ending: list[int | None] = []
    for start, step in zip(starts, steps, strict=False):
        last = bisect_left(firsts, start + len(step)) - 1  # the last one that begins before the step's end
        ending.append(last if last >= 0 and spans[last][1] > start else None)
    return [text[first:end] for first, end in spans], ending


def split_steps(response: str, split: Split = SEPARATOR) -> list[str]:
    """The steps of a response, verbatim, without the separators; an empty response has no steps.

    Args:
        response (`str`): the response's text.
        split (`str` or callable): the text between two steps, or a function from a response to its steps.
    """
    if isinstance(split, str):
        return [response[start:end] for start, end in step_spans(response, split)]
    return [step for step in split(response) if step.strip()]


def prompt_text(prompt: Any) -> str:
    """The text of a prompt in either of TRL's forms: a string unchanged; of messages, the user's last message.

    Raises:
        DatasetError: the messages hold no user message, or the last one is not a text.
    """
    if isinstance(prompt, str):
        return prompt
    said = [message["content"] for message in prompt if message["role"] == "user"]
    if not said or not isinstance(said[-1], str):
        raise DatasetError(f"a process reward needs a question: the user's last message, as text; got {prompt!r}")
    return str(said[-1])
