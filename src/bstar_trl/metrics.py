"""Exploration and exploitation in figures (paper, section 2.2).

With `k` left out these are the paper's definitions on the K samples at hand; with k < K, the unbiased expectation over
k of them drawn without replacement. Every function returns the mean over queries, or one value each with
`per_query=True`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from .errors import ConfigurationError

# A number, perhaps signed, with thousands commas, decimals, a currency or a percent sign.
_NUMBER = r"[-+]?\$?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)%?"
_OPERATOR = r"(?:[-+*/^xX\u00d7\u00f7\u00b7])"  # also the signs for times, division and the dot
# Parentheses may stand around any part of the left side; the calculator marks of GSM8K, << >>, simply fall away.
_LEFT = rf"\(*\s*{_NUMBER}[\s)]*(?:{_OPERATOR}[\s(]*{_NUMBER}[\s)]*)+"
_RIGHT = rf"{_NUMBER}(?:\s*{_OPERATOR}\s*{_NUMBER})*"
# Look-ahead: in a chain a=b=c the middle is the right side of one equation and the left side of the next.
_EQUATION = re.compile(rf"(?<![\w.])({_LEFT})=\s*(?=({_RIGHT}))")


def pass_at_k(correct_NK: ArrayLike, k: int | None = None, *, per_query: bool = False) -> float | np.ndarray:
    """Pass@k: whether at least one of k responses is correct.

    Args:
        correct_NK (`bool`, N queries x K responses): which responses are correct.
        k (`int`, *optional*): in 1..K; `None`: K.
        per_query (`bool`): one value per query instead of the mean.

    Raises:
        ConfigurationError: k outside 1..K, or not a matrix.
    """
    correct = _matrix("correct_NK", correct_NK, bool)
    total = correct.shape[1]
    k = _k_in_range(k, total)
    # The chance that k responses avoid all c correct ones: prod_i (1 - k / i), i over K - c + 1..K.
    count = correct.sum(axis=1)
    values = np.array([1.0 - _misses(int(c), total, k) for c in range(total + 1)])[count]
    return _result(values, per_query)


def pass_at_k_s(
    correct_NK: ArrayLike, response_ids_NK: ArrayLike, k: int | None = None, *, s: int = 4, per_query: bool = False
) -> float | np.ndarray:
    """Pass@k-S: whether at least S *different* correct responses are among k.

    Exact for k < K: the chance that k of the K responses, drawn without replacement, hold at least S distinct correct
    texts.

    Args:
        correct_NK (`bool`, N queries x K responses): which responses are correct.
        response_ids_NK (any comparable type): equal ids within a query mean the same text.
        k (`int`, *optional*): in 1..K; `None`: K.
        s (`int`): S, in 1..k.
        per_query (`bool`): one value per query instead of the mean.

    Raises:
        ConfigurationError: k outside 1..K, S outside 1..k, or shapes that differ.
    """
    correct, ids = _matrix("correct_NK", correct_NK, bool), np.asarray(response_ids_NK)
    _check_aligned(correct, ids, "response_ids_NK")
    total = correct.shape[1]
    k = _s_in_range(s, k, total)
    values = np.array([_distinct_chance(row_ids[row], total, k, s) for row, row_ids in zip(correct, ids, strict=True)])
    return _result(values, per_query)


def best_of_k(
    rewards_NK: ArrayLike, correct_NK: ArrayLike, k: int | None = None, *, per_query: bool = False
) -> float | np.ndarray:
    """Best-of-k accuracy: whether the response with the highest reward among k is correct; ties in expectation.

    Args:
        rewards_NK (`float`, N queries x K responses): what the responses are ranked by.
        correct_NK (`bool`): which responses are correct.
        k (`int`, *optional*): in 1..K; `None`: K.
        per_query (`bool`): one value per query instead of the mean.

    Raises:
        ConfigurationError: k outside 1..K, shapes that differ, or a reward that is NaN.
    """
    return reward_at_k_s(rewards_NK, correct_NK, k, s=1, per_query=per_query)


def reward_at_k_s(
    rewards_NK: ArrayLike, correct_NK: ArrayLike, k: int | None = None, *, s: int = 1, per_query: bool = False
) -> float | np.ndarray:
    """Reward@k-S: whether the S responses with the highest rewards among k are all correct; ties in expectation.

    Args:
        rewards_NK (`float`, N queries x K responses): what the responses are ranked by.
        correct_NK (`bool`): which responses are correct.
        k (`int`, *optional*): in 1..K; `None`: K.
        s (`int`): S, in 1..k.
        per_query (`bool`): one value per query instead of the mean.

    Raises:
        ConfigurationError: k outside 1..K, S outside 1..k, shapes that differ, or a reward that is NaN.
    """
    rewards, correct = _matrix("rewards_NK", rewards_NK, np.float64), np.asarray(correct_NK, dtype=bool)
    _check_aligned(rewards, correct, "correct_NK")
    if np.isnan(rewards).any():
        raise ConfigurationError("rewards_NK must not hold NaN")
    total = rewards.shape[1]
    k = _s_in_range(s, k, total)
    if k == total:
        values = _top_of_all(rewards, correct, s)
    else:
        values = np.array([_top_chance(row, right, k, s) for row, right in zip(rewards, correct, strict=True)])
    return _result(values, per_query)


def distinct_equations(
    responses: Sequence[Sequence[str]], correct: Sequence[Sequence[bool]], *, per_query: bool = False
) -> float | np.ndarray:
    """Distinct Equations: the share of unique equations among all equations of a query's correct responses.

    An equation is a piece `left = right` with at least one operator on the left, white space removed; a chain a=b=c
    holds two. Queries without any equation in a correct response have no value: NaN, and left out of the mean (which
    is NaN where no query has one).

    Args:
        responses (`Sequence[Sequence[str]]`): the texts of each query's responses.
        correct (`Sequence[Sequence[bool]]`): which of them are correct.
        per_query (`bool`): one value per query instead of the mean.

    Raises:
        ConfigurationError: as many queries or responses in the one as there are not in the other.
    """
    if [len(row) for row in responses] != [len(row) for row in correct]:
        raise ConfigurationError("responses and correct must hold as many responses for each query")
    values = np.full(len(responses), np.nan)
    for query, (texts, right) in enumerate(zip(responses, correct, strict=True)):
        found = [equation for text, ok in zip(texts, right, strict=True) if ok for equation in equations(text)]
        if found:
            values[query] = len(set(found)) / len(found)
    if per_query:
        return values
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def equations(text: str) -> list[str]:
    """The equations of a text, white space removed, in order."""
    return [re.sub(r"\s+", "", f"{match[1]}={match[2]}") for match in _EQUATION.finditer(text)]


def _misses(hits: int, total: int, k: int) -> float:
    """The chance that k of `total`, drawn without replacement, hold none of `hits`."""
    if total - hits < k:
        return 0.0
    return float(np.prod(1.0 - k / np.arange(total - hits + 1, total + 1)))


def _distinct_chance(correct_ids: np.ndarray, total: int, k: int, s: int) -> float:
    """The chance that k of `total` responses hold at least s different ids, where these stand on the correct ones.

    Texts are gone through one by one, with the chance of every state (drawn so far, distinct so far).
    """
    copies = np.unique(correct_ids, return_counts=True)[1]
    if len(copies) < s or k == total:
        return float(len(copies) >= s)
    chance = np.zeros((k + 1, s + 1))  # responses drawn, distinct texts; the last column stands for s or more
    chance[0, 0] = 1.0
    left = total
    for count in copies.tolist():
        weights = _draws(left, count, k)
        after = chance * weights[:, :1]
        for more in range(1, weights.shape[1]):
            step = chance[: k + 1 - more] * weights[: k + 1 - more, more, None]
            after[more:, 1:] += step[:, :-1]
            after[more:, -1] += step[:, -1]
        chance, left = after, left - count
    return float(chance[:, -1].sum())


def _top_of_all(rewards: np.ndarray, correct: np.ndarray, s: int) -> np.ndarray:
    """Per query, the chance that the s best of all responses are correct, ties at the edge broken at random."""
    edge = np.partition(rewards, -s, axis=1)[:, -s, None]
    above, tied = rewards > edge, rewards == edge
    needed = s - above.sum(axis=1)
    right, size = (tied & correct).sum(axis=1), tied.sum(axis=1)
    lucky = np.exp(_log_choose(right, needed) - _log_choose(size, needed))
    return np.where((above & ~correct).any(axis=1), 0.0, lucky)


def _top_chance(rewards: np.ndarray, correct: np.ndarray, k: int, s: int) -> float:
    """The chance that the s best of k responses, drawn without replacement, ties broken at random, are all correct.

    Levels of equal rewards are gone through from the best, with the chance of every number drawn so far, all of them
    correct. A level that reaches s gives as many random members as are still needed.
    """
    levels, inverse = np.unique(-rewards, return_inverse=True)
    sizes = np.bincount(inverse, minlength=len(levels))
    rights = np.bincount(inverse, weights=correct, minlength=len(levels)).astype(int)
    chance = np.zeros(s)
    chance[0] = 1.0
    done, left = 0.0, len(rewards)
    for size, right in zip(sizes.tolist(), rights.tolist(), strict=True):
        weights = _draws(left, size, k)[:s]
        more = np.arange(weights.shape[1])
        drawn = np.arange(s)[:, None] + more
        needed = np.minimum(more, s - np.arange(s)[:, None])
        moved = chance[:, None] * weights * np.exp(_log_choose(right, needed) - _log_choose(size, needed))
        done += float(moved[drawn >= s].sum())
        chance = np.bincount(drawn[drawn < s], weights=moved[drawn < s], minlength=s)
        left -= size
    return done


@lru_cache(maxsize=4096)
def _draws(population: int, marked: int, k: int) -> np.ndarray:
    """Chances of 0, 1, ... marked ones among the k - d still to be drawn of `population`; a row for each d = 0..k.

    Hypergeometric; rows that cannot be (more to draw than there are) hold zeros.
    """
    to_draw = np.arange(k, -1, -1)[:, None]
    hits = np.arange(min(marked, k) + 1)
    logs = _log_choose(marked, hits) + _log_choose(population - marked, to_draw - hits)
    possible = np.broadcast_to(to_draw <= population, logs.shape)
    return np.exp(np.where(possible, logs, -np.inf) - np.where(possible, _log_choose(population, to_draw), 0.0))


def _log_choose(n: ArrayLike, r: ArrayLike) -> np.ndarray:
    """log of n over r, element by element; -inf for r outside 0..n."""
    n, r = np.broadcast_arrays(np.asarray(n), np.asarray(r))
    table = _log_factorials(int(n.max(initial=0)))
    inside = (r >= 0) & (r <= n)
    safe = np.where(inside, r, 0)
    return np.where(inside, table[n] - table[safe] - table[n - safe], -np.inf)


@lru_cache(maxsize=1024)
def _log_factorials(largest: int) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, largest + 1)))])


def _matrix(name: str, values: ArrayLike, dtype: type) -> np.ndarray:
    array = np.asarray(values, dtype=dtype)
    if array.ndim != 2 or 0 in array.shape:
        raise ConfigurationError(f"{name} must be a matrix, a row of responses per query, got shape {array.shape}")
    return array


def _check_aligned(first: np.ndarray, second: np.ndarray, name: str) -> None:
    if first.shape != second.shape:
        raise ConfigurationError(f"{name} must align with the others: got {second.shape}, expected {first.shape}")


def _k_in_range(k: int | None, total: int) -> int:
    k = total if k is None else k
    if not 1 <= k <= total:
        raise ConfigurationError(f"k must be in 1..{total}, got {k}")
    return k


def _s_in_range(s: int, k: int | None, total: int) -> int:
    k = _k_in_range(k, total)
    if not 1 <= s <= k:
        raise ConfigurationError(f"s must be in 1..{k}, got {s}")
    return k


def _result(values: np.ndarray, per_query: bool) -> float | np.ndarray:
    return values if per_query else float(values.mean())
