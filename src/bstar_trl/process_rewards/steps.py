"""A response's steps, and a prompt's text: what a process reward model reads."""

from __future__ import annotations

from typing import Any

from .layout import SEPARATOR


def step_spans(response: str, separator: str = SEPARATOR) -> list[tuple[int, int]]:
    """Where the steps of a response begin and end: the pieces between separators, those of white space left out."""
    spans, start = [], 0
    for piece in response.split(separator):
        if piece.strip():
            spans.append((start, start + len(piece)))
        start += len(piece) + len(separator)
    return spans


def split_steps(response: str, separator: str = SEPARATOR) -> list[str]:
    """The steps of a response, verbatim, without the separators; an empty response has none."""
    return [response[start:end] for start, end in step_spans(response, separator)]


def prompt_text(prompt: Any) -> str:
    """The text of a prompt in either of TRL's forms: a string, or messages, of which the user's are taken."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(message["content"] for message in prompt if message["role"] == "user")
