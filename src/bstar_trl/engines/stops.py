"""Strings that end a response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class StopStrings:
    """Finds the stop strings at the end of rows that grow token by token.

    A stop string may begin in the prompt; one that lies in the prompt alone ends nothing.

    Args:
        tokenizer: decodes the rows.
        strings (`Sequence[str]`): at least one, none of them empty.
        prompts (`Sequence[Sequence[int]]`): the rows' prompts.
    """

    def __init__(self, tokenizer: Any, strings: Sequence[str], prompts: Sequence[Sequence[int]]):
        self.tokenizer = tokenizer
        self.strings = list(strings)
        longest = max(map(len, self.strings))
        self.window = 4 * longest + 4  # tokens: a character takes up to four, one per byte
        self.begun = [list(prompt[-self.window :]) for prompt in prompts]
        # A prompt may end within a character, which then belongs to the response.
        self.borders = [len(tokenizer.decode(tokens).rstrip("\ufffd")) for tokens in self.begun]

    def end(self, prompt: int, tokens: Sequence[int]) -> bool:
        """Whether a stop string ends in the last of these tokens, which follow the prompt at place `prompt`.

        Characters may follow it within the token.
        """
        if len(tokens) >= self.window:
            text = self.tokenizer.decode(tokens[-self.window :])
            return any(stop in text for stop in self.strings)
        text = self.tokenizer.decode([*self.begun[prompt], *tokens])
        return any(text.find(stop, max(0, self.borders[prompt] - len(stop) + 1)) >= 0 for stop in self.strings)
