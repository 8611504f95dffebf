"""Mask, cap and budget against a plain reading of the method's step 4."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from bstar_trl.errors import ConfigurationError, RewardError
from bstar_trl.selection import select, selectable_mask


def naive_counts(counts: list[int], budget: int) -> tuple[int, list[int]]:
    """The cap m, and how many each query may give at most: min(n_i, m)."""
    cap = next((m for m in range(1, max(counts) + 1) if sum(min(n, m) for n in counts) >= budget), max(counts))
    return cap, [min(n, cap) for n in counts]


def make_case(seed: int, ties: bool = True):
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 8)), int(rng.integers(1, 10)))
    rewards = rng.integers(-2, 3, shape) / 2 if ties else rng.normal(size=shape)
    selectable = rng.random(shape) < rng.choice([0.3, 0.8, 1.0])
    selectable[rng.random(shape[0]) < 0.2] = False
    return rewards, selectable, float(rng.choice([-math.inf, -1.0, -0.5, 0.0, 0.7])), int(rng.integers(1, 40))


def test_mask_by_hand():
    ids = [[5, 5, 7, 5], [5, 8, 8, 9]]
    np.testing.assert_array_equal(selectable_mask(ids, np.ones((2, 4))), [[1, 0, 1, 0], [1, 1, 0, 1]])
    # The first *eligible* one counts; a query's texts are nobody else's.
    eligible = [[0, 1, 1, 1], [1, 0, 1, 1]]
    np.testing.assert_array_equal(selectable_mask(ids, eligible), [[0, 1, 1, 0], [1, 0, 1, 1]])
    np.testing.assert_array_equal(selectable_mask(ids, np.zeros((2, 4))), np.zeros((2, 4)))


def test_mask_equals_a_plain_loop():
    rng = np.random.default_rng(0)
    for _ in range(100):
        ids = rng.integers(0, 4, (5, 7)).astype(np.uint64) + np.uint64(2**63)
        eligible = rng.random((5, 7)) < 0.6
        wanted = np.zeros((5, 7), dtype=bool)
        for query in range(5):
            seen = set()
            for response in range(7):
                if eligible[query, response] and ids[query, response] not in seen:
                    seen.add(ids[query, response])
                    wanted[query, response] = True
        np.testing.assert_array_equal(selectable_mask(ids, eligible), wanted)


def test_mask_takes_texts():
    np.testing.assert_array_equal(selectable_mask([["b", "a", "b"]], [[1, 1, 1]]), [[1, 1, 0]])


@pytest.mark.parametrize("ties", [True, False])
def test_selection_equals_a_plain_reading(ties):
    for seed in range(300):
        rewards, selectable, threshold, budget = make_case(seed, ties)
        chosen = select(rewards, selectable, threshold, budget=budget, rng=np.random.default_rng(seed))
        passing = selectable & (rewards > threshold)
        counts = passing.sum(axis=1).tolist()
        cap, limits = naive_counts(counts, budget)
        assert chosen.dtype == np.int64
        assert chosen.shape == (min(budget, sum(counts)), 2)
        assert chosen.tolist() == [list(pair) for pair in sorted(set(map(tuple, chosen.tolist())))]
        given = Counter(chosen[:, 0].tolist())
        for query, limit in enumerate(limits):
            # Only queries that hold the cap give up a response, and only one.
            assert limit - (limit == cap) <= given[query] <= limit
            picked = chosen[chosen[:, 0] == query, 1]
            assert passing[query, picked].all()
            best = np.sort(rewards[query, passing[query]])[::-1]
            np.testing.assert_array_equal(np.sort(rewards[query, picked])[::-1], best[: len(picked)])


def test_exactly_the_budget():
    rewards = np.arange(40.0).reshape(4, 10)
    for budget in range(1, 41):
        chosen = select(rewards, np.ones((4, 10)), -1, budget=budget, rng=np.random.default_rng(budget))
        assert len(chosen) == budget
        assert max(Counter(chosen[:, 0].tolist()).values()) == -(-budget // 4)


def test_uneven_queries_by_hand():
    # 1, 2 and 6 responses; M = 7: m = 4 (1 + 2 + 4); the best four of the third.
    selectable = np.zeros((3, 6), dtype=bool)
    selectable[0, 2] = selectable[1, 1] = selectable[1, 5] = True
    selectable[2] = True
    rewards = np.tile([0.1, 0.9, 0.5, 0.7, 0.3, 0.2], (3, 1))
    chosen = select(rewards, selectable, 0.0, budget=7, rng=np.random.default_rng(0))
    assert chosen.tolist() == [[0, 2], [1, 1], [1, 5], [2, 1], [2, 2], [2, 3], [2, 4]]
    # M = 6: m = 3 is enough (1 + 2 + 3).
    chosen = select(rewards, selectable, 0.0, budget=6, rng=np.random.default_rng(0))
    assert chosen.tolist() == [[0, 2], [1, 1], [1, 5], [2, 1], [2, 2], [2, 3]]


def test_the_threshold_is_strict():
    chosen = select([[0.5, 0.5 + 1e-12, 0.4]], [[1, 1, 1]], 0.5, budget=3, rng=np.random.default_rng(0))
    assert chosen.tolist() == [[0, 1]]


@pytest.mark.parametrize("threshold", [5.0, math.inf])
def test_nothing_passes(threshold):
    assert select([[1.0, 2.0]], [[1, 1]], threshold, budget=3, rng=np.random.default_rng(0)).shape == (0, 2)
    assert select([[1.0, 2.0]], [[0, 0]], -math.inf, budget=3, rng=np.random.default_rng(0)).shape == (0, 2)


def test_ties_are_broken_evenly():
    # One query, five of six tied, two places left: each of the five equally often.
    rng = np.random.default_rng(1)
    rewards = [[0.0, 0.0, 1.0, 0.0, 0.0, 0.0]]
    chosen = [tuple(select(rewards, np.ones((1, 6)), -1, budget=3, rng=rng)[:, 1].tolist()) for _ in range(3000)]
    assert all(2 in row for row in chosen)
    pairs = Counter(chosen)
    assert len(pairs) == 10  # 5 over 2
    assert stats.chisquare(list(pairs.values())).pvalue > 1e-3


def test_the_surplus_falls_evenly_on_those_that_hold_the_cap():
    # 3, 3, 3 and 1 responses and M = 8: m = 3 would give 10; two of the first three give up their third best.
    selectable = np.ones((4, 3), dtype=bool)
    selectable[3, 1:] = False
    rewards = np.tile([3.0, 2.0, 1.0], (4, 1))
    rng = np.random.default_rng(2)
    kept = Counter()
    for _ in range(3000):
        chosen = select(rewards, selectable, 0, budget=8, rng=rng).tolist()
        assert [3, 0] in chosen
        (whole,) = [query for query in range(3) if [query, 2] in chosen]
        kept[whole] += 1
    assert stats.chisquare([kept[query] for query in range(3)]).pvalue > 1e-3


def test_the_generator_decides():
    rewards, selectable = np.zeros((5, 8)), np.ones((5, 8))
    one, same, other = (
        select(rewards, selectable, -1, budget=13, rng=np.random.default_rng(seed)).tolist() for seed in (3, 3, 4)
    )
    assert one == same != other


@pytest.mark.parametrize(
    ("rewards", "selectable", "threshold", "budget", "error", "message"),
    [
        ([[1.0]], [[1]], 0.0, 0, ConfigurationError, "budget must be at least 1, got 0"),
        ([[1.0]], [[1, 1]], 0.0, 1, ConfigurationError, r"one shape, got \(1, 1\) and \(1, 2\)"),
        ([1.0], [1], 0.0, 1, ConfigurationError, "matrices of one shape"),
        ([[1.0]], [[1]], math.nan, 1, ConfigurationError, "threshold must be a number"),
        ([[1.0, 2.0], [3.0, math.nan]], [[1, 1], [1, 1]], 0.0, 1, RewardError, "response 1 of query 1"),
    ],
)
def test_refusals_name_what_came(rewards, selectable, threshold, budget, error, message):
    with pytest.raises(error, match=message):
        select(rewards, selectable, threshold, budget=budget, rng=np.random.default_rng(0))


def test_mask_refuses_other_shapes():
    with pytest.raises(ConfigurationError, match=r"matrices of one shape, got \(1, 2\) and \(2, 1\)"):
        selectable_mask([[1, 2]], [[1], [1]])


def test_nan_where_nothing_may_be_selected():
    chosen = select([[math.nan, 1.0]], [[0, 1]], 0.0, budget=2, rng=np.random.default_rng(0))
    assert chosen.tolist() == [[0, 1]]
