"""The recipe of an annotation, its result and its counts: the shapes around [`annotate`]."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import ConfigurationError
from ..prm.steps import SEPARATOR


@dataclass(frozen=True)
class Recipe:
    """How to annotate; equal recipes, rows and engines give equal annotations.

    Args:
        solutions (`int`): sampled for each query.
        completions (`int`): largest number sampled from the end of each step.
        labels (`str`): `"soft"`, the share of right completions, in [0, 1]; or `"hard"`, whether any is right, which
            needs fewer completions.
        temperature (`float`): of solutions and completions, > 0.
        max_new_tokens (`int`): largest length of a solution, and of a prefix with its completion.
        separator (`str`): the text between two steps.
        chat (`bool`): send text prompts through the chat template, as the user's message. Prompts of messages always
            go through it.
        seed (`int`): of all sampling.
        group_size (`int`): queries annotated together.
    """

    solutions: int = 15
    completions: int = 8
    labels: Literal["hard", "soft"] = "soft"
    temperature: float = 1.0
    max_new_tokens: int = 1024
    separator: str = SEPARATOR
    chat: bool = False
    seed: int = 0
    group_size: int = 16

    def __post_init__(self) -> None:
        for name in ("solutions", "completions", "max_new_tokens", "group_size", "seed"):
            least = 0 if name == "seed" else 1
            if getattr(self, name) < least:
                raise ConfigurationError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.labels not in ("hard", "soft"):
            raise ConfigurationError(f"labels must be 'hard' or 'soft', got {self.labels!r}")
        if not 0 < self.temperature < math.inf:
            raise ConfigurationError(f"temperature must be greater than 0 and finite, got {self.temperature}")
        if not self.separator:
            raise ConfigurationError("separator must be a text that stands between steps, got an empty one")


@dataclass(frozen=True)
class Counts:
    """Counts of an annotation; `+` adds the counts of its parts.

    Args:
        queries (`int`): rows of the dataset.
        unjudged (`int`): queries without annotations, because the verifier returned `None`.
        solutions (`int`): annotated solutions.
        without_steps (`int`): solutions left out: empty, or cut off within their first step.
        steps (`int`): labels.
        right_steps (`int`): labels that are `True`, or greater than 0.
        completions (`int`): sampled completions, without the solutions themselves.
        naive (`int`): completions of the plain method: `steps` x `Recipe.completions`.
        naive_open (`int`): the same without the last steps of finished solutions, which need no completions.
    """

    queries: int = 0
    unjudged: int = 0
    solutions: int = 0
    without_steps: int = 0
    steps: int = 0
    right_steps: int = 0
    completions: int = 0
    naive: int = 0
    naive_open: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))


@dataclass(frozen=True)
class Annotated:
    """The annotations of a group of queries, in the queries' order; see [`annotate`] for what a row holds."""

    rows: list[dict[str, Any]]
    counts: Counts
