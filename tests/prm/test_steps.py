"""Responses into steps, prompts into questions."""

from __future__ import annotations

import pytest
from conftest import make_tokenizer

from bstar_trl.errors import DatasetError
from bstar_trl.prm.steps import lay_out_steps, prompt_text, reread, split_steps, step_spans


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


@pytest.mark.parametrize(
    ("steps", "separator", "read", "ending"),
    [
        (["a", "b"], "\n", ["a", "b"], [0, 1]),
        (["a\nb", "c"], "\n", ["a", "b", "c"], [1, 2]),
        (["a\n\nb", "c"], "\n\n", ["a", "b", "c"], [1, 2]),
        (["a\nb", "c"], "\n\n", ["a\nb", "c"], [0, 1]),
        (["a\n", "b"], "\n", ["a", "b"], [0, 1]),
        (["\na", "\n\nb\n\n"], "\n", ["a", "b"], [0, 1]),
        (["a\n", "b"], "\n\n", ["a", "\nb"], [0, 1]),  # the text is "a\n\n\nb"
        (["a\n", "\nb"], "\n\n", ["a", "b"], [0, 1]),
        (["a\r\nb", "c"], "\n", ["a", "b", "c"], [1, 2]),
        (["a\r", "b"], "\n", ["a", "b"], [0, 1]),
        ([" a \n b ", "c"], "\n", [" a ", " b ", "c"], [1, 2]),
        (["1+2=3=3", "c"], "=", ["1+2", "3", "3", "c"], [2, 3]),
        (["1+2=", "c"], "=", ["1+2", "c"], [0, 1]),
        (["a<extra_0>b", "c<extra_0>"], "<extra_0>", ["a", "b", "c"], [1, 2]),
        (["a", "<extra_0>", "b"], "<extra_0>", ["a", "b"], [0, None, 1]),
        (["a ки\nb", "c"], " ки\n", ["a", "b", "c"], [1, 2]),
        (["a ки", "c"], " ки\n", ["a ки", "c"], [0, 1]),
        (["\n", "a"], "\n", ["a"], [None, 0]),
        (["\n"], "\n", [], [None]),
        ([], "\n", [], []),
    ],
)
def test_steps_are_read_again_as_in_a_response(steps, separator, read, ending):
    assert reread(steps, separator) == (read, ending)
    assert split_steps(separator.join(steps), separator) == read  # what scoring sees
    assert reread(read, separator) == (read, list(range(len(read))))
    # The layout of the given steps is that of the steps read: a separator after each.
    tokenizer = make_tokenizer()
    layout = lay_out_steps(tokenizer, "1+2=", steps, separator=separator)
    assert layout == lay_out_steps(tokenizer, "1+2=", read, separator=separator)
    assert len(layout.positions) == len(read)


def test_reading_again_is_linear_in_hostile_texts():
    pieces, ending = reread(["a" + "\r" * 300_000, "\n" * 300_000, "=" * 300_000 + "b"], "\n")
    assert (len(pieces), ending) == (2, [0, None, 1])
    assert reread(["ab" * 200_000], "aba")[1] == [99_999]  # "aba" goes, "b" stays, 100,000 times


def test_questions():
    user, answer = {"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}
    assert prompt_text("1+1?\n") == "1+1?\n"
    assert prompt_text([{"role": "system", "content": "s"}, {"role": "user", "content": "0"}, answer, user]) == "1+1?"
    for prompt in ([answer], [{"role": "user", "content": [{"type": "image"}]}]):
        with pytest.raises(DatasetError, match="the user's last message, as text"):
            prompt_text(prompt)
