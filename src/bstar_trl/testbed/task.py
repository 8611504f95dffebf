"""The task: a sum modulo 10, `7+1+5+9+8=`, answered by a chain that merges one adjacent pair at a time.

`8+5+9+8=3+9+8=2+8=0` is a response to it. Unlike a real dataset, the task tells two truths apart: whether the *answer*
is right (the verifier sees nothing else; a blind guess is right one time in ten), and whether the *chain* is valid,
that is, every step follows from the step before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from datasets import Dataset

MODULUS = 10
HELD_OUT_SHARE = 10  # one sum in ten is held out, for every seed


def random_terms(rng: np.random.Generator, count: int) -> list[int]:
    """`count` digits, uniform."""
    return rng.integers(MODULUS, size=count).tolist()


def prompt_of(terms: Sequence[int]) -> str:
    """The query: `7+1+5=`."""
    return "+".join(map(str, terms)) + "="


def terms_of(prompt: str) -> list[int]:
    """The digits of a query."""
    return [int(term) for term in prompt.removesuffix("=").split("+")]


def answer_to(terms: Sequence[int]) -> str:
    """The right answer: one digit."""
    return str(sum(terms) % MODULUS)


def random_chain(rng: np.random.Generator, terms: Sequence[int]) -> str:
    """A valid chain, merging a uniformly drawn adjacent pair at each step."""
    current, segments = list(terms), []
    while len(current) > 1:
        place = int(rng.integers(len(current) - 1))
        current[place : place + 2] = [sum(current[place : place + 2]) % MODULUS]
        segments.append("+".join(map(str, current)))
    return "=".join(segments)


def is_valid(prompt: str, response: str) -> bool:
    """Whether every step follows from the step before, and the last one is a single digit."""
    segments = [prompt.removesuffix("="), *response.split("=")]
    return "+" not in segments[-1] and all(after in _next_segments(before) for before, after in pairwise(segments))


def answer_of(response: str) -> str | None:
    """The text after the last `=`, if it is a single digit; else `None`."""
    last = response.rsplit("=", 1)[-1]
    return last if len(last) == 1 and last in "0123456789" else None


def is_held_out(prompt: str) -> bool:
    """Whether a sum belongs to the held-out tenth; this depends on the sum alone, so no seed can mix the two parts."""
    digest = hashlib.blake2b(prompt.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % HELD_OUT_SHARE == 0


def draw_prompts(count: int, mix: Sequence[int], *, seed: int, held_out: bool = False) -> list[str]:
    """Distinct sums with `mix` terms in turn, all held out or all not.

    Args:
        count (`int`): number of sums.
        mix (`Sequence[int]`): numbers of terms, each at least 2; `(5, 5, 6)` gives two thirds of 5 terms.
        seed (`int`): the same seed draws the same sums.
        held_out (`bool`): draw from the held-out part.

    Raises:
        ConfigurationError: there are too few such sums.
    """
    for terms in set(mix):
        wanted = count * list(mix).count(terms) / len(mix)
        if terms < 2 or wanted > MODULUS**terms * (0.05 if held_out else 0.5):
            raise ConfigurationError(f"cannot draw {wanted:.0f} distinct sums of {terms} terms: ask for fewer")
    rng = np.random.default_rng([seed, int(held_out)])
    drawn: dict[str, None] = {}
    while len(drawn) < count:
        prompt = prompt_of(random_terms(rng, mix[len(drawn) % len(mix)]))
        if is_held_out(prompt) == held_out:
            drawn.setdefault(prompt)
    return list(drawn)


def make_dataset(count: int, mix: Sequence[int] = (5, 5, 6), *, seed: int = 0, held_out: bool = False) -> Dataset:
    """`draw_prompts` as a dataset with the columns `prompt` and `answer`."""
    from datasets import Dataset

    prompts = draw_prompts(count, mix, seed=seed, held_out=held_out)
    return Dataset.from_dict({"prompt": prompts, "answer": [answer_to(terms_of(prompt)) for prompt in prompts]})


def _next_segments(segment: str) -> Iterator[str]:
    """The segment with one adjacent pair replaced by its sum modulo 10, for every pair."""
    terms = segment.split("+")
    if any(len(term) != 1 or term not in "0123456789" for term in terms):
        return
    for place in range(len(terms) - 1):
        merged = (int(terms[place]) + int(terms[place + 1])) % MODULUS
        yield "+".join([*terms[:place], str(merged), *terms[place + 2 :]])
