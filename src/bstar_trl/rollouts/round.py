"""A round of sampling: requests in, scored rollouts of all processes out."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from ..errors import BStarError
from ..records import Completion, Request, Rollouts, Rows
from .chance import Chances
from .scoring import Scorer
from .store import RolloutStore

T = TypeVar("T")


class Sampler:
    """Samples and scores, a round at each call; keeps all responses that it has sampled.

    Args:
        generate: `BSTaRTrainer.generate_responses`: this process's requests in, completions out, in any order.
        scorer (`Scorer`): the reward functions.
        rows (`Rows`): the dataset row of each query id.
        accelerator (`Accelerator`): who else takes part.
        chunk_size (`int`): responses scored together.
        trainer_state: passed on to the reward functions.
        with_chance (`bool`): find out how often the verifiers accept wrong reasoning; without it, `chance_R` is 0.

    Attributes:
        num_sampled (`int`): responses so far, of all processes.
        num_tokens (`int`): theirs and their prompts'.
        sampling_seconds (`float`): that this process spent on generating, and on waiting for other processes.
        scoring_seconds (`float`): that its generation waited for reward functions.
    """

    def __init__(
        self,
        generate: Callable[[Sequence[Request]], Iterable[Completion]],
        scorer: Scorer,
        rows: Rows,
        *,
        accelerator: Accelerator,
        chunk_size: int,
        trainer_state: Any,
        with_chance: bool = False,
    ):
        self.generate = generate
        self.scorer = scorer
        self.rows = rows
        self.accelerator = accelerator
        self.chunk_size = chunk_size
        self.trainer_state = trainer_state
        self.num_sampled = 0
        self.num_tokens = 0
        self.sampling_seconds = 0.0
        self.scoring_seconds = 0.0
        self._store = RolloutStore(accelerator.process_index, gather_object)
        self._chances = Chances(scorer, rows, self._store, trainer_state) if with_chance else None
        self._metrics: dict[str, list[float]] = {}
        self._extras: dict[str, dict[int, Any]] = {}

    def __call__(self, requests: Sequence[Request]) -> Rollouts:
        """Sample and score; in the order of the requests and their queries. A collective."""
        started, scoring_before = time.perf_counter(), self.scoring_seconds
        share = self._share(requests)
        # Each row is read from the dataset once, however many responses its query gets.
        asked = dict.fromkeys(query_id for request in share for query_id in request.query_ids)
        rows = {query_id: self.rows[query_id] for query_id in asked}
        share = [item.with_rows(rows) for item in share]
        completions: list[Completion] = []
        scored = 0
        self.scorer.discard()
        for completion in self.generate(share):
            if completion.query_id not in rows:
                raise _wrong_number(completion.query_id, completion.temperature, got=1, expected=0)
            completions.append(completion)
            if len(completions) - scored == self.chunk_size:
                self._score(completions[scored:], rows)
                scored = len(completions)
        if len(completions) > scored:
            self._score(completions[scored:], rows)
        order = self._order(share, completions)
        with self._timed_scoring():
            scores = self.scorer.finish()
        values_RF = scores.values_RF[order]
        for name, values in scores.metrics.items():
            self._metrics.setdefault(name, []).extend(values)
        first = self._store.size
        for column, items in scores.extras.items():
            kept = self._extras.setdefault(column, {})
            kept |= {first + place: items[index] for place, index in enumerate(order)}
        rollouts = self._store.add(
            [completions[index] for index in order],
            rewards_R=self.scorer.total(values_RF),
            values_RF=values_RF,
            reasons_R=scores.reasons_R[order],
        )
        verifiers = self.scorer.verifiers
        rollouts = dataclasses.replace(
            rollouts,
            correct_R=verifiers.correct(rollouts.values_RF, rollouts.query_ids_R),
            judged_R=verifiers.judges(rollouts.values_RF, rollouts.query_ids_R) >= 0,
            step_R=verifiers.steps_if_correct(rollouts.values_RF, rollouts.query_ids_R, self.scorer.weights_F),
        )
        if self._chances is not None and requests:
            with self._timed_scoring():
                chance_R = self._chances.of(rollouts, seed=requests[0].seed)
            rollouts = dataclasses.replace(rollouts, chance_R=chance_R)
        self.num_sampled += len(rollouts)
        prompt_tokens = sum(gather_object([sum(len(item.prompt_ids) for item in completions)]))
        self.num_tokens += int(rollouts.lengths_R.sum()) + prompt_tokens
        scoring = self.scoring_seconds - scoring_before
        self.sampling_seconds += time.perf_counter() - started - scoring
        return rollouts

    def agree(self, value: T) -> T:
        """What the main process says: a decision that all processes must share. A collective."""
        return cast(T, broadcast_object_list([value])[0])

    def logged_metrics(self) -> dict[str, float]:
        """What reward functions passed to `log_metric`, averaged over calls and processes. A collective."""
        merged: dict[str, list[float]] = {}
        for part in gather_object([self._metrics]):
            for name, values in part.items():
                merged.setdefault(name, []).extend(values)
        return {name: float(np.mean(values)) for name, values in merged.items()}

    def logged_extras(self, rows: np.ndarray) -> dict[str, list[Any]]:
        """What reward functions passed to `log_extra`, for these rows of the rollouts. A collective."""
        owners, places = self._store.locate(rows)
        me = self.accelerator.process_index
        wanted = {place for owner, place in zip(owners, places, strict=True) if owner == me}
        mine = {
            column: {place: items[place] for place in wanted & items.keys()} for column, items in self._extras.items()
        }
        parts = gather_object([mine])
        columns = sorted({column for part in parts for column in part})
        return {
            column: [parts[owner].get(column, {}).get(place) for owner, place in zip(owners, places, strict=True)]
            for column in columns
        }

    def _share(self, requests: Sequence[Request]) -> list[Request]:
        """This process's part of the requests: a contiguous run of all their queries, with as much work as others'."""
        n = np.repeat([request.n for request in requests], [len(request.query_ids) for request in requests])
        middle = np.cumsum(n) - n / 2
        owner = (middle * self.accelerator.num_processes / max(1, n.sum())).astype(np.int64)
        share, start = [], 0
        for request in requests:
            owners = owner[start : start + len(request.query_ids)]
            start += len(request.query_ids)
            mine = np.array(request.query_ids, dtype=np.int64)[owners == self.accelerator.process_index]
            share.append(dataclasses.replace(request, query_ids=tuple(mine.tolist())))
        return [request for request in share if request.query_ids]

    def _score(self, completions: Sequence[Completion], rows: Mapping[int, Mapping[str, Any]]) -> None:
        with self._timed_scoring():
            self.scorer.add(completions, [rows[item.query_id] for item in completions], self.trainer_state)

    @contextmanager
    def _timed_scoring(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.scoring_seconds += time.perf_counter() - started

    def _order(self, requests: Sequence[Request], completions: Sequence[Completion]) -> np.ndarray:
        """Positions of the completions in the order of the requests, and a check that all of them came."""
        place: dict[tuple[int, float], int] = {}
        wanted: dict[tuple[int, float], int] = {}
        for request in requests:
            for query_id in request.query_ids:
                key = (query_id, request.temperature)
                place.setdefault(key, len(place))
                wanted[key] = wanted.get(key, 0) + request.n
        got: dict[tuple[int, float], int] = {}
        for item in completions:
            key = (item.query_id, item.temperature)
            got[key] = got.get(key, 0) + 1
        for key in wanted.keys() | got.keys():
            if wanted.get(key, 0) != got.get(key, 0):
                raise _wrong_number(*key, got=got.get(key, 0), expected=wanted.get(key, 0))
        keys = [place[item.query_id, item.temperature] for item in completions]
        return np.argsort(np.array(keys, dtype=np.int64), kind="stable")


def _wrong_number(query_id: int, temperature: float, *, got: int, expected: int) -> BStarError:
    return BStarError(
        f"generate_responses must return every response that was requested: got {got} of query {query_id} at "
        f"temperature {temperature:g}, expected {expected}"
    )
