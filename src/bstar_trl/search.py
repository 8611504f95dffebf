"""Choosing the sampling temperature from few responses.

Balance scores of single queries differ much, so the mean over a few dozen of them is noisy. Three things help. The
curve of the score over the temperature is smooth, so neighbouring temperatures share what they found (a Gaussian
process). It moves little from one iteration to the next, so the last curve is the prior of this one. And the same
queries at every temperature cancel the differences between queries, where that is affordable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .balance import balance_scores, best_threshold
from .errors import ConfigurationError
from .records import Setting

# Of scores in 0..1 and temperatures around 1; chosen on recordings (`benchmarks/search.py`).
LENGTH = 0.5  # temperatures closer than this have similar scores
HEIGHT = 0.1  # how much scores differ over such a distance, and how much the outermost are expected to lose
DRIFT = 0.06  # how much they change from one iteration to the next
STEEPER = ((1.0, 1.0), (2.0, 0.7), (4.0, 0.5), (8.0, 0.3))  # factors on height and length, where the scores ask for it
MEMORY = 0.9  # how much of the last curve is expected to remain
STAY = 0.25  # standard errors that another temperature must be better by
WORTH = 3.0  # log-likelihood that a steeper curve must gain
DRAWS = 1000  # of the curve, to see which temperature is likely to be the best
OFFSET = 1.0  # how far the curve's level may lie from 0: nothing is known of it

Slice = tuple[float, tuple[int, ...]]
Sample = Callable[[Sequence[Slice]], Sequence[Sequence[Any]]]


class Observed(NamedTuple):
    """What the responses to n queries at one temperature got; as returned by `sample`.

    Args:
        rewards (`float`, (n, K)): total rewards.
        correct (`bool`, (n, K)): which responses the verifier accepts.
        selectable (`bool`, (n, K)): which may be selected.
        chance (`float` or (n,), *optional*): of accepting wrong reasoning; `None`: what the search was told.
        step_if_correct (`float` or (n, K), *optional*): what a wrong response's total would gain had it been accepted;
            `None`: what the search was told.
    """

    rewards: ArrayLike
    correct: ArrayLike
    selectable: ArrayLike
    chance: ArrayLike | None = None
    step_if_correct: ArrayLike | None = None


@dataclass(frozen=True)
class Prior:
    """What one search leaves to the next.

    Args:
        temperatures (`tuple[float, ...]`): the candidates.
        curve (`tuple[float, ...]`): their scores, relative to the mean.
        covariance (`tuple[tuple[float, ...], ...]`): how uncertain these are.
        temperature (`float`): the one that was chosen.
    """

    temperatures: tuple[float, ...]
    curve: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    temperature: float


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Args:
        setting (`Setting`): the best temperature, the threshold that its score goes with (see `smooth`), and the
            smoothed score. The score is 0 where no response at any temperature earned anything.
        curve (`np.ndarray`, (T,)): smoothed balance score at each temperature, in their order.
        standard_error (`np.ndarray`, (T,)): of each of these.
        completions (`int`): responses sampled.
        prior (`Prior`): for the next search.
    """

    setting: Setting
    curve: np.ndarray
    standard_error: np.ndarray
    completions: int
    prior: Prior


def find_setting(
    sample: Sample,
    temperatures: Sequence[float],
    *,
    num_queries: int,
    num_generations: int,
    target: float,
    budget: int,
    disjoint: bool = True,
    thresholds: Sequence[float] | np.ndarray | None = None,
    chance: ArrayLike = 0.0,
    step_if_correct: ArrayLike = 1.0,
    rng: np.random.Generator,
    prior: Prior | None = None,
    smooth: bool = True,
) -> SearchResult:
    """Find the temperature (and the threshold at it) with the largest mean balance score, within a budget.

    All responses are sampled in one call, as many queries at every temperature as the budget allows.

    Args:
        sample: takes slices, a list of (temperature, query indices), and returns for each, in order, what its
            responses got: `(rewards_nK, correct_nK, selectable_nK)`, a row per query; where they differ from query to
            query, also `chance_n` and `step_nK` (see [`Observed`]).
        temperatures (`Sequence[float]`): candidates, each greater than 0; at least one.
        num_queries (`int`): queries are numbered from 0 to `num_queries - 1`.
        num_generations (`int`): K, responses of a query at a temperature.
        target (`float`): n*, > 0.
        budget (`int`): most responses to sample; at least K for every temperature.
        disjoint (`bool`): ask for each query once, at one temperature. If not, the same queries serve every
            temperature, which finds more with as many responses.
        thresholds (`Sequence[float]`, *optional*): a fixed grid of thresholds; `None`: all that make a difference.
        chance (`float`): how often the verifier accepts wrong reasoning, in [0, 1).
        step_if_correct (`float`): what a wrong response's total would gain had the verifier accepted it.
        rng (`np.random.Generator`): deals the queries out to the temperatures.
        prior (`Prior`, *optional*): what the search before left. Its temperature stays where the difference
            is noise: where no other is better by a quarter of the difference's standard error.
        smooth (`bool`): share strength between neighbours and with the prior; all temperatures are judged at one
            threshold, the one with the highest score of the paper over all responses. If not, each is judged at its
            own best threshold, and the temperature with the highest mean wins, of equal ones the lowest, as in the
            paper.

    Returns:
        `SearchResult`.

    Raises:
        ConfigurationError: a number is out of its range, or the budget is too small for one query per temperature.
    """
    candidates = tuple(dict.fromkeys(sorted(map(float, temperatures))))
    if not candidates or candidates[0] <= 0 or not math.isfinite(candidates[-1]):
        raise ConfigurationError(f"temperatures must be greater than 0 and finite, got {list(temperatures)}")
    if num_queries < 1 or num_generations < 1:
        raise ConfigurationError(
            f"num_queries and num_generations must be at least 1, got {num_queries} and {num_generations}"
        )
    usable = prior if smooth and prior is not None and prior.temperatures == candidates else None
    shares = _shares(candidates, usable, rng)
    slices = _deal(candidates, num_queries, budget // num_generations, disjoint=disjoint, shares=shares, rng=rng)
    observed = [Observed(*item) for item in sample(slices)]
    # A threshold for each slice would fit its few queries; one for all is about what responses are selected by.
    common = _common_threshold(observed, target, thresholds) if smooth else None
    scores, found = [], []
    for (temperature, _), item in zip(slices, observed, strict=True):
        options = {
            "selectable_NK": item.selectable,
            "chance": chance if item.chance is None else item.chance,
            "step_if_correct": step_if_correct if item.step_if_correct is None else item.step_if_correct,
        }
        if common is None:
            threshold, _ = best_threshold(item.rewards, item.correct, target, thresholds=thresholds, **options)
        else:
            threshold = common
        scores.append(balance_scores(item.rewards, item.correct, target, threshold, **options))
        found.append(Setting(temperature, threshold))
    if smooth:
        curve, covariance = _smoothed(candidates, scores, paired=not disjoint, prior=usable)
        winner = _winner(curve, covariance, None if usable is None else candidates.index(usable.temperature))
    else:
        curve = np.array([item.mean() for item in scores])
        covariance = np.diag([_variance(item) / len(item) for item in scores])
        winner = int(np.flatnonzero(curve >= curve.max() - 1e-12)[0])
    earned = any(item.any() for item in scores)
    best = found[winner]
    return SearchResult(
        setting=Setting(best.temperature, best.threshold, float(np.clip(curve[winner], 0.0, 1.0)) if earned else 0.0),
        curve=curve,
        standard_error=np.sqrt(np.diag(covariance)),
        completions=sum(len(queries) for _, queries in slices) * num_generations,
        prior=_prior_of(candidates, curve, covariance, best.temperature),
    )


def _common_threshold(
    observed: Sequence[Observed], target: float, thresholds: Sequence[float] | np.ndarray | None
) -> float:
    """The best threshold by the paper's score of all queries at all temperatures together."""
    rewards, correct, selectable = (
        np.concatenate([np.asarray(getattr(item, name)) for item in observed])
        for name in ("rewards", "correct", "selectable")
    )
    return best_threshold(rewards, correct, target, selectable_NK=selectable, thresholds=thresholds)[0]


def _shares(temperatures: Sequence[float], prior: Prior | None, rng: np.random.Generator) -> np.ndarray:
    """The part of the slices that each temperature gets: half of them evenly, half by its chance to be the best."""
    even = np.full(len(temperatures), 1 / len(temperatures))
    if prior is None:
        return even
    expected, known = _expected(temperatures, prior)
    likely = rng.multivariate_normal(expected, known + DRIFT**2 * _likeness(temperatures), size=DRAWS, method="eigh")
    best = np.bincount(likely.argmax(axis=1), minlength=len(temperatures)) / DRAWS
    return (even + best) / 2


def _deal(
    temperatures: Sequence[float],
    num_queries: int,
    slots: int,
    *,
    disjoint: bool,
    shares: np.ndarray,
    rng: np.random.Generator,
) -> list[Slice]:
    """Query indices for each temperature; a slot is one query at one temperature."""
    needed = len(temperatures) if disjoint else 1
    if slots < len(temperatures) or num_queries < needed:
        raise ConfigurationError(
            f"the budget must pay for one query at each of {len(temperatures)} temperatures, got {slots} queries' "
            f"responses and {num_queries} queries"
        )
    each = slots // len(temperatures)
    if not disjoint:
        chosen = range(num_queries) if each >= num_queries else sorted(rng.permutation(num_queries)[:each].tolist())
        return [(temperature, tuple(chosen)) for temperature in temperatures]
    order = rng.permutation(num_queries).tolist()
    # One for each temperature, the others by their shares, the largest remainders first.
    spare = min(slots, num_queries) - needed
    sizes = np.floor(shares * spare).astype(int)
    sizes[np.argsort(sizes - shares * spare, kind="stable")[: spare - sizes.sum()]] += 1
    ends = np.cumsum(sizes + 1).tolist()
    parts = [order[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    return [(temperature, tuple(sorted(part))) for temperature, part in zip(temperatures, parts, strict=True)]


def _likeness(temperatures: Sequence[float], shorter: float = 1.0) -> np.ndarray:
    grid = np.asarray(temperatures)
    return np.exp(-0.5 * ((grid[:, None] - grid) / (shorter * LENGTH)) ** 2)


def _expected(temperatures: Sequence[float], prior: Prior | None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the curve before this search, but for what may have changed since the last one."""
    grid = np.asarray(temperatures)
    middle, reach = (grid[0] + grid[-1]) / 2, max((grid[-1] - grid[0]) / 2, 1e-9)
    concave = -HEIGHT * ((grid - middle) / reach) ** 2
    if prior is None:
        return concave, np.zeros((len(grid), len(grid)))
    return MEMORY * np.asarray(prior.curve) + (1 - MEMORY) * concave, MEMORY**2 * np.asarray(prior.covariance)


def _smoothed(
    temperatures: Sequence[float], scores: Sequence[np.ndarray], *, paired: bool, prior: Prior | None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the curve after these scores: a Gaussian process around the prior's curve."""
    means = np.array([item.mean() for item in scores])
    counts = np.array([len(item) for item in scores])
    if paired:  # what is common to a query at all temperatures moves the whole curve, not its shape
        table_TN = np.stack(scores)
        common = _variance(table_TN.mean(axis=0))
        spread = [_variance(row) for row in table_TN - table_TN.mean(axis=0)]
    else:
        common, spread = 0.0, [_variance(item) for item in scores]
    # One variance for all: those of single temperatures are too uncertain themselves.
    noise = np.diag(np.mean(spread) / counts + 1e-6) + common / counts.mean()
    expected, known = _expected(temperatures, prior)
    surprise = means - expected
    likeliest = -math.inf
    for higher, shorter in STEEPER:
        height = higher * (HEIGHT if prior is None else DRIFT)
        candidate = known + height**2 * _likeness(temperatures, shorter) + OFFSET**2
        total = candidate + noise
        likelihood = -0.5 * float(surprise @ np.linalg.solve(total, surprise) + np.linalg.slogdet(total)[1])
        if likelihood > likeliest + WORTH:
            likeliest, before = likelihood, candidate
    gain = np.linalg.solve(before + noise, before).T
    return expected + gain @ surprise, before - gain @ before


def _prior_of(temperatures: tuple[float, ...], curve: np.ndarray, covariance: np.ndarray, temperature: float) -> Prior:
    """The shape of the curve, without its level."""
    centre = np.eye(len(curve)) - 1 / len(curve)
    return Prior(
        temperatures,
        tuple((centre @ curve).tolist()),
        tuple(map(tuple, (centre @ covariance @ centre).tolist())),
        temperature,
    )


def _winner(curve: np.ndarray, covariance: np.ndarray, current: int | None) -> int:
    best = int(curve.argmax())
    if current is None:
        return best
    variance = covariance[best, best] + covariance[current, current] - 2 * covariance[best, current]
    is_noise = curve[best] - curve[current] < STAY * math.sqrt(max(variance, 0.0))
    return current if is_noise else best


def _variance(values: np.ndarray) -> float:
    """Unbiased; of one value the largest that scores in 0..1 can have."""
    return float(values.var(ddof=1)) if len(values) > 1 else 0.25
