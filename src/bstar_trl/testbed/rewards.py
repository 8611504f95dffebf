"""The testbed's rewards: the verifier, which sees only the answer, and a noisy step checker as a second signal."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..rewards.base import RewardFn, Score
from .task import answer_of, is_valid


class SumMatch(RewardFn):
    """1 where the digit after the last `=` is the right one, else 0: the verifier."""

    is_verifier = True
    columns = ("answer",)

    def score(self, prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]) -> list[Score]:
        """One score per completion; the column `answer` holds the right digit."""
        return [_compare(text, answer) for text, answer in zip(completions, columns["answer"], strict=True)]


class StepChecker(RewardFn):
    """A noisy step checker, openly so: what a process reward model might say of a chain, without being one.

    `strength` where the chain is valid and `-strength` where it is not, plus normal noise, clipped to [-1, 1]. The
    noise is seeded by the text: the same response gets the same score wherever and whenever it is scored.

    Args:
        strength (`float`): half the distance between valid and other chains.
        noise (`float`): standard deviation.
    """

    def __init__(self, strength: float = 0.6, noise: float = 0.5):
        super().__init__()
        self.strength = strength
        self.noise = noise

    def score(self, prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]) -> list[Score]:
        """One score per completion, in [-1, 1]."""
        return [self._check(prompt, text) for prompt, text in zip(prompts, completions, strict=True)]

    def _check(self, prompt: str, text: str) -> Score:
        valid = is_valid(prompt, text)
        digest = hashlib.blake2b(f"{prompt}{text}".encode("utf-8", errors="surrogatepass"), digest_size=8).digest()
        noise = np.random.default_rng(int.from_bytes(digest, "little")).normal(0.0, self.noise)
        value = float(np.clip((self.strength if valid else -self.strength) + noise, -1.0, 1.0))
        return Score(value, "valid chain" if valid else "a step does not follow")


def _compare(text: str, answer: Any) -> Score:
    found = answer_of(text)
    if found is None:
        return Score(0.0, "no answer")
    return Score(1.0, "correct") if found == str(answer) else Score(0.0, f"wrong answer {found}")
