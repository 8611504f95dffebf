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
import torch
from torch import nn
from trl.data_utils import apply_chat_template, is_conversational

from ..concurrency.background import BackgroundLoop, BackgroundThread
from ..errors import RewardError
from ..records import Completion
from ..rewards.base import RewardFn, Score

TRL_KEYWORDS = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments")


@dataclass(frozen=True)
class Scores:
    """The scores of R responses, by column (see `Rollouts`)."""

    values_RF: np.ndarray
    reasons_R: np.ndarray
    extras: dict[str, list[Any]]
    metrics: dict[str, list[float]]


@dataclass
class _Batch:
    """Responses that are being scored, and a result per reward function."""

    completions: Sequence[Completion]
    prompts: Sequence[Any]
    keywords: dict[str, Any]
    results: list[Future[list[Score]]] = field(default_factory=list)
    extras: dict[str, list[Any]] = field(default_factory=dict)
    metrics: dict[str, list[float]] = field(default_factory=dict)


class Scorer:
    """The reward functions of a run.

    Args:
        functions (`Sequence`): callables in TRL's convention (async ones too), the package's `RewardFn`, or
            sequence-classification models.
        names (`Sequence[str]`): one per function, as in the logs.
        weights (`Sequence[float]`): TRL's `reward_weights`.
        verifier (`int`): which of them says *correct or not*.
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
        verifier: int,
        tokenizers: Sequence[Any],
        chat_template_kwargs: dict[str, Any] | None = None,
        batch_size: int = 8,
    ):
        self.functions = list(functions)
        self.names = list(names)
        self.weights_F = np.asarray(weights, dtype=np.float64)
        self.verifier = verifier
        self.tokenizers = list(tokenizers)
        self.chat_template_kwargs = chat_template_kwargs or {}
        self.batch_size = batch_size
        self.correct_at = float(getattr(self.functions[verifier], "correct_at", 1.0))
        # The package's own rewards run beside generation, on one thread, in order. A user's function is called between
        # chunks on the main thread, since it may use signals or the global random state.
        self._beside = BackgroundThread("bstar-scoring")
        self._async = BackgroundLoop("bstar-async")
        self._batches: list[_Batch] = []

    def add(self, completions: Sequence[Completion], rows: Sequence[Mapping[str, Any]], trainer_state: Any) -> None:
        """Start scoring these responses; `rows` are their dataset rows. Raises the errors of earlier calls."""
        for batch in self._batches:
            for result in batch.results:
                if result.done():
                    result.result()
        prompts = [row["prompt"] for row in rows]
        conversational = is_conversational({"prompt": prompts[0]})
        texts = [item.text for item in completions]
        answers: list[Any] = [[{"role": "assistant", "content": text}] for text in texts] if conversational else texts
        keywords: dict[str, Any] = {
            name: [row[name] for row in rows] for name in rows[0] if name not in ("prompt", *TRL_KEYWORDS)
        }
        batch = _Batch(completions, prompts, keywords)
        keywords |= {
            "completion_ids": [list(item.token_ids) for item in completions],
            "trainer_state": trainer_state,
            "log_extra": lambda column, values: batch.extras.setdefault(column, []).extend(values),
            "log_metric": lambda name, value: batch.metrics.setdefault(name, []).append(float(value)),
        }
        for index, function in enumerate(self.functions):
            if isinstance(function, nn.Module):
                call: Callable[[], Any] = partial(self._model_scores, index, prompts, answers, conversational)
                batch.results.append(_done(self._checked(index, completions, call())))
            elif isinstance(function, RewardFn) and not function.beside_generation:
                batch.results.append(Future())  # `finish` calls it
            elif isinstance(function, RewardFn):
                call = partial(function.score, prompts, texts, **keywords)
                batch.results.append(self._beside.submit(partial(self._call, index, completions, call)))
            elif is_async(function):
                call = partial(function, prompts=prompts, completions=answers, **keywords)
                batch.results.append(self._async.submit(self._call_async(index, completions, call)))
            else:
                output = function(prompts=prompts, completions=answers, **keywords)
                batch.results.append(_done(self._checked(index, completions, output)))
        self._batches.append(batch)

    def discard(self) -> None:
        """Drop the responses of a round that was interrupted or failed."""
        for batch in self._batches:
            for result in batch.results:
                result.cancel()
        self._batches = []

    def finish(self) -> Scores:
        """The scores of everything added since the last `finish`, in that order."""
        for index, function in enumerate(self.functions):
            if isinstance(function, RewardFn) and not function.beside_generation:
                self._score_together(index, function)
        batches, self._batches = self._batches, []
        metrics: dict[str, list[float]] = {}
        values: list[list[float]] = []
        reasons: list[str | None] = []
        extras: dict[str, list[Any]] = {}
        done = 0
        for batch in batches:
            scores_FB = [result.result() for result in batch.results]
            values += [
                [math.nan if item.value is None else item.value for item in row]
                for row in zip(*scores_FB, strict=True)
            ]
            reasons += [item.reason for item in scores_FB[self.verifier]]
            for name, logged in batch.metrics.items():
                metrics.setdefault(name, []).extend(logged)
            for column, items in batch.extras.items():
                if len(items) != len(batch.completions):
                    raise RewardError(
                        f"log_extra({column!r}, ...) got {len(items)} values for {len(batch.completions)} responses"
                    )
                extras.setdefault(column, [None] * done).extend(items)
            done += len(batch.completions)
            for column in extras:
                extras[column] += [None] * (done - len(extras[column]))
        reasons_R = np.empty(done, dtype=object)
        reasons_R[:] = reasons
        return Scores(
            np.array(values, dtype=np.float64).reshape(done, len(self.functions)), reasons_R, extras, metrics
        )

    def total(self, values_RF: np.ndarray) -> np.ndarray:
        """Total reward: the weighted sum, `None` adding nothing."""
        return np.nan_to_num(values_RF, nan=0.0) @ self.weights_F

    def judged(self, values_RF: np.ndarray) -> np.ndarray:
        """Where the verifier gave a value."""
        return ~np.isnan(values_RF[:, self.verifier])

    def correct(self, values_RF: np.ndarray) -> np.ndarray:
        """Where the verifier's own, unweighted value says *correct*; the one place that decides it."""
        return self.judged(values_RF) & (np.nan_to_num(values_RF[:, self.verifier]) >= self.correct_at)

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
        batches = self._batches
        sizes = [len(batch.completions) for batch in batches]
        starts = [sum(sizes[:place]) for place in range(len(sizes))]
        completions = [item for batch in batches for item in batch.completions]
        if not completions:
            return

        def log_extra(column: str, values: Sequence[Any]) -> None:
            for batch, start, size in zip(batches, starts, sizes, strict=True):
                batch.extras.setdefault(column, []).extend(values[start : start + size])

        keywords = {
            name: [item for batch in batches for item in batch.keywords[name]] if isinstance(value, list) else value
            for name, value in batches[0].keywords.items()
        } | {"log_extra": log_extra}
        prompts = [prompt for batch in batches for prompt in batch.prompts]
        call = partial(function.score, prompts, [item.text for item in completions], **keywords)
        scores = self._beside.submit(partial(self._call, index, completions, call)).result()
        for batch, start, size in zip(batches, starts, sizes, strict=True):
            batch.results[index].set_result(scores[start : start + size])

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

    def _model_scores(
        self, index: int, prompts: Sequence[Any], answers: Sequence[Any], conversational: bool
    ) -> list[float]:
        """A sequence-classification model's logit for each prompt and completion; sorted by length, padded little."""
        tokenizer, model = self.tokenizers[index], self.functions[index]
        if conversational:
            texts = [
                apply_chat_template({"messages": list(prompt) + answer}, tokenizer, **self.chat_template_kwargs)[
                    "text"
                ]
                for prompt, answer in zip(prompts, answers, strict=True)
            ]
        else:
            texts = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
        device = next(model.parameters()).device
        values = np.empty(len(texts), dtype=np.float64)
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            inputs = tokenizer(
                text=[texts[row] for row in rows],
                return_tensors="pt",
                padding=True,
                padding_side="right",
                add_special_tokens=False,
            ).to(device)
            with torch.inference_mode():
                values[rows] = model(**inputs).logits[:, 0].float().cpu().numpy()
        return values.tolist()


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


def _done(scores: list[Score]) -> Future[list[Score]]:
    future: Future[list[Score]] = Future()
    future.set_result(scores)
    return future
