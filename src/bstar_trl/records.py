"""The shapes that travel between the rooms: frozen, light, free of torch.

Axis suffixes: R responses (rows of a `Rollouts`), N queries, K responses of a query, F reward functions, M selected.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Setting:
    """What one iteration samples and selects with: the pair that the paper tunes (section 3.2).

    Args:
        temperature (`float`): sampling temperature T, > 0.
        threshold (`float`): reward threshold tau; a response is kept where its reward is *greater*.
        score (`float`): mean balance score (equation 3) measured at this setting, in 0..1.
    """

    temperature: float
    threshold: float
    score: float = 0.0


@dataclass(frozen=True)
class Request:
    """One order to sample: `n` responses for each of `query_ids`, all at one temperature.

    `seed` fixes the samples: equal requests to equal weights give equal responses, as long as the number of processes
    and `generation_chunk_size` are the same.
    """

    query_ids: tuple[int, ...]
    temperature: float
    n: int
    seed: int


@dataclass(frozen=True)
class Completion:
    """One sampled response, as an engine returns it.

    Args:
        query_id (`int`): the query it answers.
        temperature (`float`): the temperature it was sampled at.
        prompt_ids (`Sequence[int]`): the prompt's tokens, as the policy saw them.
        token_ids (`Sequence[int]`): the response's tokens; where `finish_reason` is `"stop"` the last one is EOS.
        text (`str`): the tokens decoded, without special tokens.
        finish_reason (`str`): `"stop"` (ended by itself: EOS or a stop string) or `"length"` (cut off).
    """

    query_id: int
    temperature: float
    prompt_ids: Sequence[int]
    token_ids: Sequence[int]
    text: str
    finish_reason: FinishReason


class ResponseReader(Protocol):
    """Where the heavy part of the rollouts lives: texts and tokens."""

    def read(self, rows: np.ndarray) -> list[Completion]:
        """The completions of these rows of the `Rollouts`, in the given order.

        A collective in a distributed run: every process asks for the same rows, every process gets them all.
        """


@dataclass(frozen=True)
class Rollouts:
    """Scored responses by column, a row each; what is heavy (texts, tokens) stays behind `reader`.

    Args:
        query_ids_R (`int64`): the query of each response.
        temperatures_R (`float64`): the temperature each response was sampled at.
        rewards_R (`float64`): total reward: the weighted sum over the reward functions, `None` counting as 0.
        correct_R (`bool`): the verifier's own, unweighted value reached its `correct_at`.
        judged_R (`bool`): the verifier returned a value, not `None`.
        ended_R (`bool`): the response ended by itself, that is, was not cut off.
        lengths_R (`int32`): tokens of the response.
        text_ids_R (`uint64`): equal for equal texts (trailing white space stripped).
        values_RF (`float64`): each reward function's own value, NaN standing for `None`.
        reasons_R (`object`): the verifier's reason for its value (`str`), or `None` where it gives none.
        rows_R (`int64`): what `reader` calls these responses.
        reader (`ResponseReader`): texts and tokens.
    """

    query_ids_R: np.ndarray
    temperatures_R: np.ndarray
    rewards_R: np.ndarray
    correct_R: np.ndarray
    judged_R: np.ndarray
    ended_R: np.ndarray
    lengths_R: np.ndarray
    text_ids_R: np.ndarray
    values_RF: np.ndarray
    reasons_R: np.ndarray
    rows_R: np.ndarray
    reader: ResponseReader

    def __len__(self) -> int:
        return len(self.query_ids_R)

    def take(self, index: np.ndarray) -> Rollouts:
        """The responses at `index` (positions or a boolean mask), in that order."""
        columns = {name: getattr(self, name)[index] for name in column_names()}
        return dataclasses.replace(self, **columns)

    def with_reader(self, reader: ResponseReader) -> Rollouts:
        """The same responses, read through `reader`."""
        return dataclasses.replace(self, reader=reader)

    def at(self, temperature: float) -> Rollouts:
        """The responses sampled at this very temperature."""
        return self.take(self.temperatures_R == temperature)

    def grid(self) -> np.ndarray:
        """Positions as a matrix, one row per query: `index_NK` of shape (queries, most responses of one query).

        Queries stand in the order of their first response; `-1` fills the rows of queries with fewer responses.
        """
        _, first, inverse = np.unique(self.query_ids_R, return_index=True, return_inverse=True)
        order_of_first = np.empty(len(first), dtype=np.int64)
        order_of_first[np.argsort(first)] = np.arange(len(first))
        row_R = order_of_first[inverse]
        by_query = np.argsort(row_R, kind="stable")
        counts = np.bincount(row_R, minlength=len(first))
        column = np.arange(len(self)) - np.repeat(np.cumsum(counts) - counts, counts)
        index_NK = np.full((len(first), counts.max(initial=0)), -1, dtype=np.int64)
        index_NK[row_R[by_query], column] = by_query
        return index_NK


def column_names() -> list[str]:
    """The columns of a `Rollouts`: every field but the reader."""
    return [item.name for item in dataclasses.fields(Rollouts) if item.name != "reader"]


def concatenate(parts: Sequence[Rollouts]) -> Rollouts:
    """One `Rollouts` of several that share a reader, in order."""
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in column_names()}
    return Rollouts(**columns, reader=parts[0].reader)


@dataclass(frozen=True)
class Selection:
    """What an iteration trains on.

    Args:
        rollouts (`Rollouts`): the selected responses, M rows.
        wanted (`int`): the budget M that was asked for; fewer rows than this are a shortfall.
    """

    rollouts: Rollouts
    wanted: int

    def __len__(self) -> int:
        return len(self.rollouts)
