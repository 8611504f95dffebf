"""Metrics of exploration and exploitation (paper, section 2.2).

Without `k` the functions follow the paper's definitions on all K samples; with k < K they return the unbiased
expectation over k samples drawn without replacement. They return the mean over queries, or one value per query with
`per_query=True`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from .errors import ConfigurationError

# The parts of an equation. Every quantifier is possessive, so any text is read in linear time (a policy that repeats
# itself writes thousands of characters of "1+1+").
_BLANK = r"(?:[\s$&]|\\[\\,;:!$()\[\] ])"  # also LaTeX's marks of formulas, alignments and spaces
_SPACE = r"[^\S\n]"
_NUMBER = r"(?:\d++(?:,\d{3}(?!\d))*+(?:\.\d++)?+|\.\d++)(?:\\?%)?+"
_SIGNS = r"[-+/^\u00d7\u00f7\u00b7\u2212]|\\(?:times|cdot|div|pm)(?![A-Za-z])"  # \u: times, division, dot, minus
_NO_OPERAND = (  # LaTeX commands that are not part of an operand
    r"(?:times|cdot|div|pm|neq?|[lg]eq?|approx|equiv|sim|to|(?:left|right)?arrow|(?:Left|Right|Leftright)arrow|implies"
    r"|iff|text\w*|q?quad|begin|end)(?![A-Za-z])"
)
_TIMES = r"[xX](?![A-Za-z])"  # the letter, between numbers
_ATOM = rf"(?:{_NUMBER}|\\(?!{_NO_OPERAND})[A-Za-z]++{_BLANK}*+|[A-Za-z]++'*+|[_!|])"
_OPEN = rf"[(\[{{]{_BLANK}*+"
_CLOSE = rf"{_BLANK}*+[)\]}}]"
_OPERAND = rf"(?:[-+]|{_OPEN})*+{_ATOM}(?:{_ATOM}|{_OPEN}|{_CLOSE})*+"
# An operator at the beginning of a line marks a list item and does not continue an expression. Asterisks around bold
# type have a blank on one side only.
_OPERATOR = rf"(?:{_SPACE}*+(?:{_SIGNS}|{_TIMES}){_BLANK}*+|{_SPACE}++\*{{1,2}}+{_BLANK}++|\*{{1,2}}+)"
_SIDE = rf"{_OPERAND}(?:{_OPERATOR}{_OPERAND})*+"
_CHAIN = re.compile(rf"{_SIDE}(?:{_BLANK}*+={_BLANK}*+{_SIDE})*+|(?:[-+]|{_OPEN})++|{_BLANK}++|\\[A-Za-z]++")
_HAS_OPERATOR = re.compile(rf"[^-+(\[{{](?:{_SIGNS}|\*)|[\d%)][xX](?=[\d.(])|\\[dt]?frac")


def pass_at_k(correct_NK: ArrayLike, k: int | None = None, *, per_query: bool = False) -> float | np.ndarray:
    """Pass@k: whether at least one of k responses is correct.

    Args:
        correct_NK (`bool`, N queries x K responses): which responses are correct.
        k (`int`, *optional*): in 1..K; `None`: K.
        per_query (`bool`): one value per query instead of the mean.

    Raises:
        ConfigurationError: k is outside 1..K, or the input is not a matrix.
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
    """Pass@k-S: whether at least S *different* correct responses are among k; exact for k < K too.

    Args:
        correct_NK (`bool`, N queries x K responses): which responses are correct.
        response_ids_NK (any comparable type): equal ids within a query mean the same text.
        k (`int`, *optional*): in 1..K; `None`: K.
        s (`int`): S, in 1..k.
        per_query (`bool`): one value per query instead of the mean.

    Raises:
        ConfigurationError: k is outside 1..K, S is outside 1..k, or the shapes differ.
    """
    correct, ids = _matrix("correct_NK", correct_NK, bool), np.asarray(response_ids_NK)
    _check_aligned(correct, ids, "response_ids_NK")
    total = correct.shape[1]
    k = _k_in_range(k, total, s)
    copies_NJ = _copies(correct, ids)
    if k == total:
        values = ((copies_NJ > 0).sum(axis=1) >= s).astype(np.float64)
    else:
        values = _distinct_chance(copies_NJ, total, k, s)
    return _result(values, per_query)


def best_of_k(
    rewards_NK: ArrayLike, correct_NK: ArrayLike, k: int | None = None, *, per_query: bool = False
) -> float | np.ndarray:
    """Best-of-k accuracy: whether the response with the highest reward among k is correct; ties in expectation.

    Arguments and errors as in [`reward_at_k_s`] with S = 1.
    """
    return reward_at_k_s(rewards_NK, correct_NK, k, s=1, per_query=per_query)


def reward_at_k_s(
    rewards_NK: ArrayLike, correct_NK: ArrayLike, k: int | None = None, *, s: int = 1, per_query: bool = False
) -> float | np.ndarray:
    """Reward@k-S: whether the S responses with the highest rewards among k are all correct; ties in expectation.

    Args:
        rewards_NK (`float`, N queries x K responses): the rewards that rank the responses.
        correct_NK (`bool`): which responses are correct.
        k (`int`, *optional*): in 1..K; `None`: K.
        s (`int`): S, in 1..k.
        per_query (`bool`): one value per query instead of the mean.

    Raises:
        ConfigurationError: k is outside 1..K, S is outside 1..k, the shapes differ, or a reward is NaN.
    """
    rewards, correct = _matrix("rewards_NK", rewards_NK, np.float64), np.asarray(correct_NK, dtype=bool)
    _check_aligned(rewards, correct, "correct_NK")
    if np.isnan(rewards).any():
        raise ConfigurationError("rewards_NK must not hold NaN")
    k = _k_in_range(k, rewards.shape[1], s)
    return _result(_top_chance(rewards, correct, k, s), per_query)


def solved_shares(correct_NK: ArrayLike) -> tuple[float, float, float]:
    """Shares of the queries that none, some but not all, and all of their responses solve; they add up to 1.

    Args:
        correct_NK (`bool`, N queries x K responses): which responses are correct.

    Raises:
        ConfigurationError: the input is not a matrix.
    """
    share_N = _matrix("correct_NK", correct_NK, bool).mean(axis=1)
    never, always = float((share_N == 0).mean()), float((share_N == 1).mean())
    return never, 1.0 - never - always, always


def unique_correct(correct_NK: ArrayLike, response_ids_NK: ArrayLike) -> np.ndarray:
    """Different correct responses of each query, `int64` (N,).

    Args:
        correct_NK (`bool`, N queries x K responses): which responses are correct.
        response_ids_NK (any comparable type): equal ids within a query mean the same text.

    Raises:
        ConfigurationError: the shapes differ.
    """
    correct, ids = _matrix("correct_NK", correct_NK, bool), np.asarray(response_ids_NK)
    _check_aligned(correct, ids, "response_ids_NK")
    counts: np.ndarray = (_copies(correct, ids) > 0).sum(axis=1)
    return counts


def agreement(values_NK: ArrayLike, correct_NK: ArrayLike) -> float:
    """How well a scorer ranks as the verifier judges: the chance that it gives the higher value to a correct response
    of a query than to a wrong one of the same query (ties count half). 1/2: it knows nothing; 1: it always agrees.

    Args:
        values_NK (`float`, N queries x K responses): the scorer's values; NaN where it gave none, and where there is
            no response.
        correct_NK (`bool`): which responses are correct.

    Returns:
        `float`: a mean over all such pairs; NaN where there is none.

    Raises:
        ConfigurationError: the shapes differ.
    """
    values, correct = _matrix("values_NK", values_NK, np.float64), np.asarray(correct_NK, dtype=bool)
    _check_aligned(values, correct, "correct_NK")
    won = pairs = 0.0
    for value, right in zip(values, correct, strict=True):
        known = ~np.isnan(value)
        better, worse = value[known & right], np.sort(value[known & ~right])
        below = np.searchsorted(worse, better, side="left")
        won += float((below + np.searchsorted(worse, better, side="right")).sum()) / 2
        pairs += len(better) * len(worse)
    return won / pairs if pairs else math.nan


def bootstrap_interval(
    values_N: ArrayLike, *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Bounds between which the mean lies, by resampling queries (percentile bootstrap).

    Args:
        values_N (`float`, N queries): a figure of each query; NaN does not count.
        level (`float`): in (0, 1).
        draws (`int`): resamples.
        seed (`int`): of the resamples.

    Returns:
        `(low, high)`; NaN where no query counts.
    """
    values = np.asarray(values_N, dtype=np.float64)
    values = values[~np.isnan(values)]
    if not len(values):
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    # The mean of a resample depends only on how often each value was drawn.
    distinct, counts = np.unique(values, return_counts=True)
    drawn = rng.multinomial(len(values), counts / len(values), size=draws)
    low, high = np.quantile(drawn @ distinct / len(values), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def distinct_equations(
    responses: Sequence[Sequence[str]], correct: Sequence[Sequence[bool]], *, per_query: bool = False
) -> float | np.ndarray:
    """Distinct Equations: the share of unique equations among all equations of a query's correct responses.

    An equation is a piece `left = right` with at least one operator on the left, white space removed; a chain a=b=c
    holds two. A query without an equation in a correct response has the value NaN and does not count in the mean. The
    mean is NaN if no query counts.

    Args:
        responses (`Sequence[Sequence[str]]`): the texts of each query's responses.
        correct (`Sequence[Sequence[bool]]`): which of them are correct.
        per_query (`bool`): one value per query instead of the mean.

    Raises:
        ConfigurationError: `responses` and `correct` differ in shape.
    """
    if [len(row) for row in responses] != [len(row) for row in correct]:
        raise ConfigurationError(
            "responses and correct must have the same shape, but the lengths of their rows differ"
        )
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
    """The equations of a text, white space removed, in order: arithmetic, and algebra in plain text or LaTeX."""
    found = []
    for chain in _CHAIN.findall(text):
        sides = [_balanced(re.sub(_BLANK, "", side)) for side in chain.split("=")]
        found += [f"{left}={right}" for left, right in pairwise(sides) if _HAS_OPERATOR.search(left)]
    return found


def _balanced(side: str) -> str:
    """The side without the unmatched brackets at its ends; these belong to the sentence around the equation."""
    excess = sum(map(side.count, "([{")) - sum(map(side.count, ")]}"))
    while excess > 0 and side[0] in "([{":
        side, excess = side[1:], excess - 1
    while excess < 0 and side[-1] in ")]}":
        side, excess = side[:-1], excess + 1
    return side


def _misses(hits: int, total: int, k: int) -> float:
    """The chance that k of `total`, drawn without replacement, hold none of `hits`."""
    if total - hits < k:
        return 0.0
    return float(np.prod(1.0 - k / np.arange(total - hits + 1, total + 1)))


def _copies(correct: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The counts of each correct text of a query, the largest first, padded with 0: (N, most texts of one query)."""
    queries, columns = np.nonzero(correct)
    texts = ids[queries, columns]
    order = np.lexsort((texts, queries))
    queries, texts = queries[order], texts[order]
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = (queries[1:] != queries[:-1]) | (texts[1:] != texts[:-1])
    begins = np.flatnonzero(is_first)
    copies, queries = np.diff(np.append(begins, len(order))), queries[begins]
    order = np.lexsort((-copies, queries))
    num_texts = np.bincount(queries, minlength=len(correct))
    columns = np.arange(len(order)) - np.repeat(np.cumsum(num_texts) - num_texts, num_texts)
    copies_NJ = np.zeros((len(correct), num_texts.max()), dtype=np.int64)
    copies_NJ[queries, columns] = copies[order]
    return copies_NJ


def _distinct_chance(copies_NJ: np.ndarray, total: int, k: int, s: int) -> np.ndarray:
    """Per query, the chance that k < `total` responses, drawn without replacement, hold at least s of its texts.

    Drawing k responses equals tossing a coin of chance k / total for each, given that k coins come up. So the function
    goes through the texts, the j-th text of every query at once, and keeps the chance of every state (responses drawn
    so far, distinct texts so far).
    """
    copies, heads = np.arange(total + 1)[:, None], np.arange(k + 1)
    log_chance = heads * np.log(k / total) + (copies - heads) * np.log(1 - k / total)
    tosses = np.exp(_log_choose(copies, heads) + log_chance)  # [c, d]: d of c copies come up
    chance = np.zeros((len(copies_NJ), k + 1, s + 1))  # drawn, distinct texts; the last column stands for s or more
    chance[:, 0, 0] = 1.0
    for copies_N in copies_NJ.T:
        weights = tosses[copies_N]
        after = chance * weights[:, :1, None]
        for more in range(1, min(k, copies_N.max()) + 1):
            step = chance[:, : k + 1 - more] * weights[:, more, None, None]
            after[:, more:, 1:] += step[:, :, :-1]
            after[:, more:, -1] += step[:, :, -1]
        chance = after
    others = tosses[total - copies_NJ.sum(axis=1), ::-1]  # the other draws fall on responses that do not count
    return np.minimum((chance[:, :, -1] * others).sum(axis=1) / tosses[total, k], 1.0)


def _top_chance(rewards: np.ndarray, correct: np.ndarray, k: int, s: int) -> np.ndarray:
    """Per query, the chance that the s best of k responses, drawn without replacement, are all correct.

    The s-th best of the k has some place i in the ranking. It must be correct, as must the s - 1 responses drawn from
    before i; the other k - s come from behind i. Equal rewards have a random order: if `size` responses are tied,
    `right` of them correct, and the i-th is correct, then on average the `ahead` tied ones before it contain
    (ahead over j) (right - 1 over j) / (size - 1 over j) sets of j correct ones.
    """
    total = rewards.shape[1]
    order = np.argsort(-rewards, axis=1, kind="stable")
    rewards, correct = np.take_along_axis(rewards, order, axis=1), np.take_along_axis(correct, order, axis=1)
    places = np.arange(total)
    is_first = np.ones(rewards.shape, dtype=bool)  # of its ties
    is_first[:, 1:] = rewards[:, 1:] != rewards[:, :-1]
    is_last = np.roll(is_first, -1, axis=1)
    begins = np.maximum.accumulate(np.where(is_first, places, 0), axis=1)
    ends = np.minimum.accumulate(np.where(is_last, places + 1, total)[:, ::-1], axis=1)[:, ::-1]
    running = np.pad(correct.cumsum(axis=1), ((0, 0), (1, 0)))
    above = np.take_along_axis(running, begins, axis=1)  # correct ones with a greater reward
    right = np.take_along_axis(running, ends, axis=1) - above
    size, ahead = ends - begins, places - begins
    others = _log_choose(total - 1 - places, k - s) - _log_choose(total, k)
    chance = np.zeros(rewards.shape)
    for j in range(s):
        tied = _log_choose(ahead, j) + _log_choose(right - 1, j) - _log_choose(np.maximum(size - 1, j), j)
        chance += np.exp(_log_choose(above, s - 1 - j) + tied + others)
    return np.minimum((chance * right / size).sum(axis=1), 1.0)


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
    array: np.ndarray = np.asarray(values, dtype=dtype)
    if array.ndim != 2 or 0 in array.shape:
        raise ConfigurationError(f"{name} must be a matrix, one row of responses per query, got shape {array.shape}")
    return array


def _check_aligned(first: np.ndarray, second: np.ndarray, name: str) -> None:
    if first.shape != second.shape:
        raise ConfigurationError(f"{name} must align with the other array: got {second.shape}, expected {first.shape}")


def _k_in_range(k: int | None, total: int, s: int = 1) -> int:
    k = total if k is None else k
    if not 1 <= k <= total:
        raise ConfigurationError(f"k must be in 1..{total}, got {k}")
    if not 1 <= s <= k:
        raise ConfigurationError(f"s must be in 1..{k}, got {s}")
    return k


def _result(values: np.ndarray, per_query: bool) -> float | np.ndarray:
    return values if per_query else float(values.mean())
