"""The shapes that travel between the rooms: frozen, light, free of torch.

Axis suffixes: R responses (rows of a `Rollouts`), N queries, K responses of a query, F reward functions, M selected.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from .errors import BStarError
from .selection import selectable_mask

FinishReason = Literal["stop", "length"]

T = TypeVar("T")


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


class Rows(Protocol):
    """Dataset rows by query id: a `dict`, or the stream of queries."""

    def __getitem__(self, query_id: int, /) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Request:
    """One order to sample: `n` responses for each of `query_ids`, all at one temperature.

    Args:
        query_ids (`tuple[int, ...]`): the queries.
        temperature (`float`): sampling temperature; 0 means greedy.
        n (`int`): responses per query.
        seed (`int`): fixes the samples. Equal requests to equal weights give equal responses. Without vLLM they do not
            depend on the number of processes or on `generation_chunk_size`, apart from rounding in low precision.
        rows (`Mapping[int, Mapping[str, Any]]`): the dataset row of each query, which the trainer adds to the requests
            that it hands to `generate_responses`.
    """

    query_ids: tuple[int, ...]
    temperature: float
    n: int
    seed: int
    rows: Mapping[int, Mapping[str, Any]] = field(default_factory=dict, compare=False, repr=False)

    def with_rows(self, rows: Rows) -> Request:
        """The same order with the rows of its queries, which are looked up in `rows`."""
        return dataclasses.replace(self, rows={query_id: rows[query_id] for query_id in self.query_ids})


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
class Grids:
    """Rollouts as matrices: a row per query, in the order of the queries' first responses.

    Rows of queries with fewer responses than others are filled up.

    Args:
        index_NK (`int64`): position in the rollouts; -1 fills up.
        rewards_NK (`float64`): total reward; 0 fills up.
        correct_NK (`bool`): the verifier said *correct*; False fills up.
        selectable_NK (`bool`): the response ended by itself, could be judged, and is the first with its text among
            those of its query; False fills up.
        text_ids_NK (`uint64`): equal for equal texts.
        step_NK (`float64`): what the total of a wrong response would gain had the verifier accepted it; 0 fills up.
        chance_N (`float64`): how often the query's verifier accepts wrong reasoning.
    """

    index_NK: np.ndarray
    rewards_NK: np.ndarray
    correct_NK: np.ndarray
    selectable_NK: np.ndarray
    text_ids_NK: np.ndarray
    step_NK: np.ndarray
    chance_N: np.ndarray

    @property
    def luck(self) -> dict[str, np.ndarray]:
        """What the balance score takes into account as luck, by the names of its arguments."""
        return {"chance": self.chance_N, "step_if_correct": self.step_NK}


@dataclass(frozen=True)
class Rollouts:
    """Scored responses by column, a row each; texts and tokens, which need memory, stay behind `reader`.

    Args:
        query_ids_R (`int64`): the query of each response.
        temperatures_R (`float64`): the temperature each response was sampled at.
        rewards_R (`float64`): total reward: the weighted sum over the reward functions, `None` counting as 0.
        correct_R (`bool`): the verifier's own, unweighted value reached its `correct_at`.
        judged_R (`bool`): the verifier returned a value, not `None`.
        step_R (`float64`): what the total would gain had the verifier accepted the response: its weight times
            (`correct_at` - value); 0 for correct and unjudged ones.
        chance_R (`float64`): how often the query's verifier accepts wrong reasoning, in [0, 1); 0: never, or unknown.
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
    step_R: np.ndarray
    chance_R: np.ndarray
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

    def at(self, temperature: float) -> Rollouts:
        """The responses sampled at this very temperature."""
        return self.take(self.temperatures_R == temperature)

    @cached_property
    def grids(self) -> Grids:
        """These responses as matrices, made once.

        Balance score, selection and metrics all read `selectable_NK` from here, so it is decided in one place.
        """
        index_NK = self._positions()
        there_NK = index_NK >= 0
        text_ids_NK = self.text_ids_R[index_NK]
        return Grids(
            index_NK=index_NK,
            rewards_NK=np.where(there_NK, self.rewards_R[index_NK], 0.0),
            correct_NK=self.correct_R[index_NK] & there_NK,
            selectable_NK=selectable_mask(text_ids_NK, (self.ended_R & self.judged_R)[index_NK] & there_NK),
            text_ids_NK=text_ids_NK,
            step_NK=np.where(there_NK, self.step_R[index_NK], 0.0),
            chance_N=np.where(there_NK, self.chance_R[index_NK], 0.0).max(axis=1, initial=0.0),  # 0 of an unjudged one
        )

    def _positions(self) -> np.ndarray:
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
class ScoreMap:
    """Mean balance scores over temperatures and thresholds, as far as responses were there to tell.

    Args:
        temperatures_T (`float64`): in ascending order.
        thresholds_H (`float64`): in ascending order.
        scores_TH (`float64`): mean balance score at each pair, in 0..1.
        num_queries_T (`int64`): queries that a temperature's scores are a mean of.
    """

    temperatures_T: np.ndarray
    thresholds_H: np.ndarray
    scores_TH: np.ndarray
    num_queries_T: np.ndarray


@dataclass(frozen=True)
class Exploration:
    """An iteration's responses, and what was found while they were sampled.

    Args:
        rollouts (`Rollouts`): the responses to select from, whatever temperatures they were sampled at.
        temperature (`float`): the temperature that the exploration chose.
        threshold (`float`, *optional*): the threshold that it chose; `None` where it chose none.
        figures (`dict[str, float]`): what the search cost and found, under the names of the logs.
        even (`Rollouts`, *optional*): those at the chosen temperature to queries that were explored with K responses
            each, whatever came of them: the threshold and `pass@K` are about these. `None`: all of `rollouts`.
        first (`Rollouts`, *optional*): those at the chosen temperature that were sampled before anything was known
            about their query: `even`, and the first rounds of the other queries. `pass@1` is about these. `None`: as
            `even`.
        score_map (`ScoreMap`, *optional*): what the search saw of the score.
    """

    rollouts: Rollouts
    temperature: float
    threshold: float | None = None
    figures: dict[str, float] = field(default_factory=dict)
    even: Rollouts | None = None
    first: Rollouts | None = None
    score_map: ScoreMap | None = None

    @property
    def evenly_sampled(self) -> Rollouts:
        """`even`, or all responses."""
        return self.rollouts if self.even is None else self.even

    @property
    def sampled_first(self) -> Rollouts:
        """`first`, or what stands in for it."""
        return self.evenly_sampled if self.first is None else self.first

    @classmethod
    def of(cls, found: Exploration | Rollouts) -> Exploration:
        """What an `explore` returned; of bare rollouts the temperature is that of most responses."""
        if isinstance(found, Exploration):
            return found
        if not isinstance(found, Rollouts):
            raise BStarError(f"explore must return an Exploration or Rollouts, got {type(found).__name__}")
        temperatures, counts = np.unique(found.temperatures_R, return_counts=True)
        return cls(found, float(temperatures[counts.argmax()]))


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


def returned(kind: type[T], found: Any, hook: str) -> T:
    """What a hook returned.

    Raises:
        BStarError: it is of another kind.
    """
    if not isinstance(found, kind):
        raise BStarError(f"{hook} must return a {kind.__name__}, got {type(found).__name__}")
    return found
