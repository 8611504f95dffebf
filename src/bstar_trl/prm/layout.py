"""Where the steps of a response lie among the tokens, for models that label one token per step.

The layout of TRL's stepwise supervision: the prompt, then each step followed by the separator, whose last token bears
the step's label. Training and scoring both lay out here, so a model is read as it was trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SEPARATOR = "\n"


def lay_out_steps(
    tokenizer: Any, prompt: str, steps: Sequence[str], *, separator: str = SEPARATOR
) -> tuple[list[int], list[int]]:
    """Tokens of a prompt and its steps, and the position of each step's label.

    Prompt, steps and separator are tokenised by themselves and joined, so that a step's tokens do not depend on what
    follows it; the tokenizer's BOS, if it has one, stands first.

    Returns:
        `(list[int], list[int])`: token ids, and one position per step, ascending.
    """

    def tokens(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    token_ids = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    token_ids += tokens(prompt)
    separator_ids = tokens(separator)
    positions = []
    for step in steps:
        token_ids += tokens(step) + separator_ids
        positions.append(len(token_ids) - 1)
    return token_ids, positions
