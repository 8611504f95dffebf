"""Scoring: calls the reward functions as TRL would, in chunks, and checks their results.

Scoring is local: each process scores its own responses. TRL's own scoring ends in a collective and turns `None` into
NaN, so it can neither run per chunk nor tell `None` from the NaN of a broken function.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from torch import nn
from trl.data_utils import is_conversational

from ..concurrency.background import BackgroundLoop, BackgroundThread
from ..errors import RewardError
from ..records import Completion
from ..rewards.base import RewardFn, Score
from .judging import Verifiers
from .reward_models import model_values

TRL_KEYWORDS = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments")


@dataclass(frozen=True)
class Scores:
    """The scores of R responses, by column (see `Rollouts`)."""

    values_RF: np.ndarray
    reasons_R: np.ndarray
    extras: dict[str, list[Any]]
    metrics: dict[str, list[float]]


@dataclass
class _Share:
    """The responses of a batch that one reward function scores, and what came of them."""

    places: Sequence[int]  # in the batch
    completions: Sequence[Completion]
    prompts: Sequence[Any]
    keywords: dict[str, Any]
    result: Future[list[Score]] = field(default_factory=Future)
    extras: dict[str, list[Any]] = field(default_factory=dict)
    metrics: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.keywords |= {
            "completion_ids": [list(item.token_ids) for item in self.completions],
            "log_extra": lambda column, values: self.extras.setdefault(column, []).extend(values),
            "log_metric": lambda name, value: self.metrics.setdefault(name, []).append(float(value)),
        }

    @property
    def texts(self) -> list[str]:
        return [item.text for item in self.completions]


@dataclass
class _Batch:
    """Responses that are being scored: a share per reward function."""

    size: int
    conversational: bool
    shares: list[_Share]


class Scorer:
    """The reward functions of a run.

    Args:
        functions (`Sequence`): callables in TRL's convention (async ones too), the package's `RewardFn`, or
            sequence-classification models.
        names (`Sequence[str]`): one per function, as in the logs.
        weights (`Sequence[float]`): TRL's `reward_weights`.
        verifiers (`Verifiers`): which of them say *correct or not*.
        tokenizers (`Sequence`): one per function, `None` but for models.
        chat_template_kwargs (`dict`): for conversational input of reward models.
        batch_size (`int`): responses per forward pass of a reward model.
    """

    def __init__(
        self,
        functions: Sequence[Any],
        names: Sequence[str],
        *,
        weights: Sequence[float],
        verifiers: Verifiers,
        tokenizers: Sequence[Any],
        chat_template_kwargs: dict[str, Any] | None = None,
        batch_size: int = 8,
    ):
        self.functions = list(functions)
        self.names = list(names)
        self.weights_F = np.asarray(weights, dtype=np.float64)
        self.verifiers = verifiers
        self.tokenizers = list(tokenizers)
        self.chat_template_kwargs = chat_template_kwargs or {}
        self.batch_size = batch_size
        # The package's own rewards run beside generation, on one thread, in order. A user's function is called between
        # chunks on the main thread, since it may use signals or the global random state.
        self._beside = BackgroundThread("bstar-scoring")
        self._async = BackgroundLoop("bstar-async")
        self._batches: list[_Batch] = []

    def add(self, completions: Sequence[Completion], rows: Sequence[Mapping[str, Any]], trainer_state: Any) -> None:
        """Start scoring these responses; `rows` are their dataset rows. Raises the errors of earlier calls.

        A verifier that a row does not name as its judge is not asked about the row's responses.

        Raises:
            DatasetError: a row names no verifier, but something else.
        """
        for batch in self._batches:
            for share in batch.shares:
                if share.result.done():
                    share.result.result()
        judges = [self.verifiers.of_row(row) for row in rows]
        shares = []
        for index in range(len(self.functions)):
            others = set(self.verifiers.indices) - {index} if index in self.verifiers.indices else set()
            places = [place for place, judge in enumerate(judges) if judge not in others]
            asked = [completions[place] for place in places]
            shares.append(_share(places, asked, [rows[place] for place in places], trainer_state))
        batch = _Batch(len(completions), is_conversational({"prompt": rows[0]["prompt"]}), shares)
        for index, share in enumerate(shares):
            self._start(index, share, batch.conversational)
        self._batches.append(batch)

    def _start(self, index: int, share: _Share, conversational: bool) -> None:
        """Call a reward function, or see to it that it is called."""
        function, prompts, texts = self.functions[index], share.prompts, share.texts
        answers: list[Any] = [[{"role": "assistant", "content": text}] for text in texts] if conversational else texts
        if isinstance(function, RewardFn) and not function.beside_generation:
            return  # `finish` calls it
        if not texts:
            share.result.set_result([])
        elif isinstance(function, nn.Module):
            values = model_values(
                function,
                self.tokenizers[index],
                prompts,
                answers,
                name=self.names[index],
                conversational=conversational,
                template_kwargs=self.chat_template_kwargs,
                batch_size=self.batch_size,
            )
            share.result.set_result(self._checked(index, share.completions, values))
        elif isinstance(function, RewardFn):
            call: Callable[[], Any] = partial(function.score, prompts, texts, **share.keywords)
            share.result = self._beside.submit(partial(self._call, index, share.completions, call))
        elif is_async(function):
            call = partial(function, prompts=prompts, completions=answers, **share.keywords)
            share.result = self._async.submit(self._call_async(index, share.completions, call))
        else:
            output = function(prompts=prompts, completions=answers, **share.keywords)
            share.result.set_result(self._checked(index, share.completions, output))

    def judge(
        self, index: int, completions: Sequence[Completion], rows: Sequence[Mapping[str, Any]], trainer_state: Any
    ) -> list[float | None]:
        """What one reward function says of these responses as answers to these rows; nothing of it is logged.

        The rows may be those of other queries. Waits for the result; call it between rounds.
        """
        if not rows:
            return []
        share = _share(range(len(rows)), completions, rows, trainer_state)
        function = self.functions[index]
        if isinstance(function, RewardFn):
            call = partial(function.score, share.prompts, share.texts, **share.keywords)
            share.result = self._beside.submit(partial(self._call, index, completions, call))
        else:
            self._start(index, share, is_conversational({"prompt": rows[0]["prompt"]}))
        return [score.value for score in share.result.result()]

    def discard(self) -> None:
        """Drop the responses of a round that was interrupted or failed."""
        for batch in self._batches:
            for share in batch.shares:
                share.result.cancel()
        self._batches = []

    def finish(self) -> Scores:
        """The scores of everything added since the last `finish`, in that order."""
        for index, function in enumerate(self.functions):
            if isinstance(function, RewardFn) and not function.beside_generation:
                self._score_together(index, function)
        batches, self._batches = self._batches, []
        metrics: dict[str, list[float]] = {}
        extras: dict[str, list[Any]] = {}
        size = sum(batch.size for batch in batches)
        values_RF = np.full((size, len(self.functions)), math.nan)
        reasons_R = np.full(size, None, dtype=object)
        first = 0
        for batch in batches:
            for index, share in enumerate(batch.shares):
                scores = share.result.result()
                rows = [first + place for place in share.places]
                for row, score in zip(rows, scores, strict=True):
                    values_RF[row, index] = math.nan if score.value is None else score.value
                    # Of several verifiers the row's judge gives the reason; without a judge, the first that has one.
                    if index in self.verifiers.indices and (score.value is not None or reasons_R[row] is None):
                        reasons_R[row] = score.reason
                for name, logged in share.metrics.items():
                    metrics.setdefault(name, []).extend(logged)
                for column, items in share.extras.items():
                    _place_extras(extras.setdefault(column, [None] * size), column, rows, items)
            first += batch.size
        return Scores(values_RF, reasons_R, extras, metrics)

    def total(self, values_RF: np.ndarray) -> np.ndarray:
        """Total reward: the weighted sum, `None` adding nothing."""
        return np.nan_to_num(values_RF, nan=0.0) @ self.weights_F

    def close(self) -> None:
        """End the threads and close the rewards. The scorer stays usable."""
        self.discard()
        self._async.close()
        self._beside.close()
        for function in self.functions:
            if isinstance(function, RewardFn):
                function.close()

    def _score_together(self, index: int, function: RewardFn) -> None:
        """Score all batches in one call of a reward that waits for the last response."""
        shares = [batch.shares[index] for batch in self._batches]
        completions = [item for share in shares for item in share.completions]
        scores: list[Score] = []
        if completions:
            together = _Share(
                range(len(completions)),
                completions,
                [prompt for share in shares for prompt in share.prompts],
                {
                    name: [item for share in shares for item in share.keywords[name]]
                    if isinstance(value, list)
                    else value
                    for name, value in shares[0].keywords.items()
                },
            )
            call = partial(function.score, together.prompts, together.texts, **together.keywords)
            scores = self._beside.submit(partial(self._call, index, completions, call)).result()
            shares[0].metrics = together.metrics
            for column, items in together.extras.items():
                if len(items) != len(completions):
                    raise _wrong_extras(column, len(items), len(completions))
        start = 0
        for share in shares:
            end = start + len(share.places)
            share.result.set_result(scores[start:end])
            if completions:
                share.extras = {column: items[start:end] for column, items in together.extras.items()}
            start = end

    def _call(self, index: int, completions: Sequence[Completion], call: Callable[[], Any]) -> list[Score]:
        return self._checked(index, completions, call())

    async def _call_async(self, index: int, completions: Sequence[Completion], call: Callable[[], Any]) -> list[Score]:
        return self._checked(index, completions, await call())

    def _checked(self, index: int, completions: Sequence[Completion], output: Any) -> list[Score]:
        """A reward function's output as scores.

        Raises:
            RewardError: the output is no list of finite numbers, one per completion; names the function and the row.
        """
        name = self.names[index]
        try:
            items = list(output)
        except TypeError:
            raise RewardError(
                f"reward function '{name}' must return a list of rewards, one per completion, got "
                f"{type(output).__name__}"
            ) from None
        if len(items) != len(completions):
            raise RewardError(
                f"reward function '{name}' must return one reward per completion: got {len(items)}, expected "
                f"{len(completions)}"
            )
        scores = []
        for row, (item, completion) in enumerate(zip(items, completions, strict=True)):
            score = item if isinstance(item, Score) else Score(item)
            if score.value is not None:
                try:
                    value = float(score.value)
                except (TypeError, ValueError):
                    value = math.nan
                if not math.isfinite(value):
                    raise RewardError(
                        f"reward function '{name}' returned {score.value!r} for row {row} (query "
                        f"{completion.query_id}, response {completion.text[:80]!r}); expected a finite number, or "
                        "None where the reward does not apply"
                    )
                score = Score(value, score.reason)
            scores.append(score)
        return scores


def _share(
    places: Sequence[int], completions: Sequence[Completion], rows: Sequence[Mapping[str, Any]], trainer_state: Any
) -> _Share:
    """What a reward function is called with."""
    columns = [name for name in rows[0] if name not in ("prompt", *TRL_KEYWORDS)] if rows else []
    keywords: dict[str, Any] = {name: [row[name] for row in rows] for name in columns}
    keywords["trainer_state"] = trainer_state
    return _Share(places, completions, [row["prompt"] for row in rows], keywords)


def is_async(function: Any) -> bool:
    """Whether calling it gives a coroutine: functions, partials of them, and objects with an async `__call__`."""
    while isinstance(function, partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(function.__call__)


def reward_name(function: Any) -> str:
    """What TRL's logs call a reward function (a model: the last part of its id)."""
    if isinstance(function, str):
        return function.split("/")[-1]
    if isinstance(function, nn.Module):
        config: Any = function.config
        return str(config._name_or_path).split("/")[-1]
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def _place_extras(column_R: list[Any], column: str, rows: Sequence[int], items: Sequence[Any]) -> None:
    if len(items) != len(rows):
        raise _wrong_extras(column, len(items), len(rows))
    for row, item in zip(rows, items, strict=True):
        if column_R[row] is not None:
            raise RewardError(f"log_extra({column!r}, ...) was called by two reward functions for the same response")
        column_R[row] = item


def _wrong_extras(column: str, got: int, expected: int) -> RewardError:
    return RewardError(f"log_extra({column!r}, ...) got {got} values for {expected} responses")
