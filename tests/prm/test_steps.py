"""Responses into steps, prompts into questions."""

from __future__ import annotations

import pytest

from bstar_trl.errors import DatasetError
from bstar_trl.prm.steps import prompt_text, split_steps, step_spans


@pytest.mark.parametrize(
    ("response", "split", "steps"),
    [
        ("a\nb", "\n", ["a", "b"]),
        (" a \n\n \nb\n", "\n", [" a ", "b"]),
        ("a\nb\n\nc", "\n\n", ["a\nb", "c"]),
        ("a b", "\n", ["a b"]),
        ("", "\n", []),
        (" \n\t", "\n", []),
        ("a\r\nb\r\n\r\nc\n", "\n", ["a", "b", "c"]),
        ("a\r\nb\r\n\r\nc\n\r\nd", "\n\n", ["a\r\nb", "c", "d"]),
        ("a.b+c", ".", ["a", "b+c"]),
        ("a;\r\nb;\nc", ";\n", ["a;\r\nb", "c"]),
        ("1. a 2. b", lambda text: text.split("2."), ["1. a ", " b"]),
        ("anything", lambda text: ["", " "], []),
    ],
)
def test_steps(response, split, steps):
    assert split_steps(response, split) == steps
    if isinstance(split, str):
        assert [response[start:end] for start, end in step_spans(response, split)] == steps


def test_questions():
    user, answer = {"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}
    assert prompt_text("1+1?\n") == "1+1?\n"
    assert prompt_text([{"role": "system", "content": "s"}, {"role": "user", "content": "0"}, answer, user]) == "1+1?"
    for prompt in ([answer], [{"role": "user", "content": [{"type": "image"}]}]):
        with pytest.raises(DatasetError, match="the user's last message, as text"):
            prompt_text(prompt)
