"""The figures against every subset and every order of ties, hand calculation, and scipy's hypergeometric law."""

from __future__ import annotations

import math
from functools import partial
from itertools import combinations, permutations

import numpy as np
import pytest
from scipy import special, stats

from bstar_trl.errors import ConfigurationError
from bstar_trl.metrics import (
    agreement,
    best_of_k,
    bootstrap_interval,
    distinct_equations,
    equations,
    pass_at_k,
    pass_at_k_s,
    reward_at_k_s,
    solved_shares,
    unique_correct,
)


def every_pass(correct, ids, k: int, s: int) -> float:
    """The share of all k-subsets with at least s different correct texts."""
    hits = [
        len({ids[place] for place in places if correct[place]}) >= s for places in combinations(range(len(correct)), k)
    ]
    return sum(hits) / len(hits)


def every_top(rewards, correct, k: int, s: int) -> float:
    """The share of all ordered k-subsets whose s best are correct, ties standing in the order of the draw."""
    hits = []
    for places in permutations(range(len(rewards)), k):
        ranked = sorted(places, key=lambda place: -rewards[place])  # stable: a random order within ties
        hits.append(all(correct[place] for place in ranked[:s]))
    return sum(hits) / len(hits)


def make_correct(seed: int, queries: int, k: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.random((queries, k)) < rng.random((queries, 1))


def test_pass_at_k_equals_every_subset():
    correct = make_correct(0, 12, 7)
    for k in range(1, 8):
        wanted = [every_pass(row, range(7), k, 1) for row in correct]
        np.testing.assert_allclose(pass_at_k(correct, k, per_query=True), wanted, atol=1e-14)
        assert pass_at_k(correct, k) == pytest.approx(np.mean(wanted), abs=1e-14)


def test_pass_at_k_by_hand():
    correct = [[1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]
    np.testing.assert_allclose(pass_at_k(correct, 2, per_query=True), [0.7, 0.0, 1.0])  # 1 - (3 over 2) / (5 over 2)
    np.testing.assert_array_equal(pass_at_k(correct, per_query=True), [1.0, 0.0, 1.0])
    assert pass_at_k(correct) == pass_at_k(correct, 5) == pytest.approx(2 / 3)
    assert pass_at_k(correct, 1) == pytest.approx(7 / 15)  # the mean


def test_figures_are_floats():
    correct, ids, rewards = [[1, 0, 1], [0, 0, 1]], [[1, 2, 3], [1, 2, 3]], [[0.5, 0.2, 0.2], [0.1, 0.2, 0.3]]
    for k in (2, 3):
        for figure in (
            partial(pass_at_k, correct),
            partial(pass_at_k_s, correct, ids, s=2),
            partial(best_of_k, rewards, correct),
            partial(reward_at_k_s, rewards, correct, s=2),
        ):
            assert type(figure(k=k)) is float
            values = figure(k=k, per_query=True)
            assert (values.shape, values.dtype) == ((2,), np.float64)
            assert figure(k=k) == pytest.approx(values.mean())


def test_pass_at_k_of_many_equals_scipy():
    correct = make_correct(1, 50, 2000)
    hits = correct.sum(axis=1)
    for k in (1, 3, 64, 1999):
        wanted = stats.hypergeom.sf(0, 2000, hits, k)
        np.testing.assert_allclose(pass_at_k(correct, k, per_query=True), wanted, atol=1e-10)


def test_pass_at_k_s_equals_every_subset():
    rng = np.random.default_rng(2)
    correct, ids = make_correct(2, 25, 7), rng.integers(0, 4, (25, 7))
    for k in range(1, 8):
        for s in range(1, k + 1):
            wanted = [every_pass(row, texts, k, s) for row, texts in zip(correct, ids.tolist(), strict=True)]
            found = pass_at_k_s(correct, ids, k, s=s, per_query=True)
            np.testing.assert_allclose(found, wanted, atol=1e-13, err_msg=f"k = {k}, s = {s}")
            assert pass_at_k_s(correct, ids, k, s=s) == pytest.approx(np.mean(wanted), abs=1e-13)


def test_pass_at_k_s_by_hand():
    correct = [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 0, 1, 1]]
    ids = [["a", "b", "c", "d", "d"], ["a", "b", "c", "c", "c"], ["a", "b", "x", "d", "e"]]
    np.testing.assert_array_equal(pass_at_k_s(correct, ids, per_query=True), [1, 0, 1])  # S = 4 by default
    np.testing.assert_array_equal(pass_at_k_s(correct, ids, s=5, per_query=True), [0, 0, 0])
    # Four of five hold four texts: all but one d of the first (2 of 5 subsets), all but the wrong one of the third.
    np.testing.assert_allclose(pass_at_k_s(correct, ids, 4, s=4, per_query=True), [0.4, 0.0, 0.2], atol=1e-14)


def test_pass_at_k_s_with_one_or_only_different_texts():
    correct = make_correct(3, 30, 64)
    alone = np.tile(np.arange(64), (30, 1))
    hits = correct.sum(axis=1)
    for k in (1, 7, 32, 63, 64):
        # S = 1 is Pass@k, however often texts repeat; where all differ, the hypergeometric law.
        np.testing.assert_allclose(
            pass_at_k_s(correct, alone // 5, k, s=1, per_query=True), stats.hypergeom.sf(0, 64, hits, k), atol=1e-12
        )
        for s in {min(4, k), k}:
            wanted = stats.hypergeom.sf(s - 1, 64, hits, k)
            np.testing.assert_allclose(pass_at_k_s(correct, alone, k, s=s, per_query=True), wanted, atol=1e-12)


def test_pass_at_k_s_of_many_stays_a_chance():
    rng = np.random.default_rng(4)
    correct, ids = make_correct(4, 3, 1500), rng.integers(0, 10**9, (3, 1500))
    for k in (4, 1499):
        wanted = stats.hypergeom.sf(3, 1500, correct.sum(axis=1), k)
        np.testing.assert_allclose(pass_at_k_s(correct, ids, k, per_query=True), wanted, atol=1e-9)
    assert pass_at_k_s(np.ones((2, 8)), np.arange(16).reshape(2, 8), 6) <= 1.0


def test_a_wrong_response_does_not_lend_its_text():
    # The same text, once judged wrong: it counts once, not at all for the wrong one.
    assert pass_at_k_s([[1, 0, 0]], [[7, 7, 8]], s=2) == 0.0
    assert pass_at_k_s([[0, 0, 0]], [[7, 7, 8]], s=1) == 0.0
    assert pass_at_k_s(np.zeros((2, 6)), np.zeros((2, 6)), 3, s=1) == 0.0


@pytest.mark.parametrize("values", [2, 3, 100])
def test_reward_at_k_s_equals_every_order(values):
    rng = np.random.default_rng(values)
    correct, rewards = make_correct(5, 6, 6), rng.integers(0, values, (6, 6)) / 2
    for k in range(1, 7):
        for s in range(1, k + 1):
            wanted = [every_top(row, right, k, s) for row, right in zip(rewards.tolist(), correct, strict=True)]
            found = reward_at_k_s(rewards, correct, k, s=s, per_query=True)
            np.testing.assert_allclose(found, wanted, atol=1e-13, err_msg=f"k = {k}, s = {s}")
            if s == 1:
                np.testing.assert_array_equal(best_of_k(rewards, correct, k, per_query=True), found)


def test_reward_at_k_s_by_hand():
    rewards = [[0.9, 0.5, 0.5, 0.1], [0.9, 0.5, 0.5, 0.1], [0.9, 0.5, 0.5, 0.1], [2, 2, 2, 2]]
    correct = [[1, 1, 0, 1], [0, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]]
    np.testing.assert_array_equal(best_of_k(rewards, correct, per_query=True), [1, 0, 1, 0.5])
    np.testing.assert_allclose(reward_at_k_s(rewards, correct, s=2, per_query=True), [0.5, 0, 1, 1 / 6])
    assert best_of_k(rewards, correct) == pytest.approx(2.5 / 4)
    # One response at random: its own correctness.
    np.testing.assert_allclose(best_of_k(rewards, correct, 1, per_query=True), [0.75, 0.75, 0.75, 0.5])


def test_reward_at_k_s_where_all_are_tied_equals_scipy():
    correct = make_correct(6, 40, 64)
    hits = correct.sum(axis=1)
    for k, s in [(64, 4), (32, 4), (64, 32), (5, 5)]:
        wanted = special.comb(hits, s) / special.comb(64, s)
        found = reward_at_k_s(np.zeros((40, 64)), correct, k, s=s, per_query=True)
        np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_reward_at_k_s_of_many_stays_a_chance():
    # The m best are correct, all others wrong, no ties: the s best of k are correct when k holds s of the m.
    correct = np.arange(1200)[None, :] < np.array([[3], [50], [700], [1200]])
    rewards = -np.arange(1200.0) * np.ones((4, 1))
    for k, s in [(4, 4), (600, 4), (1199, 100)]:
        wanted = stats.hypergeom.sf(s - 1, 1200, correct.sum(axis=1), k)
        found = reward_at_k_s(rewards, correct, k, s=s, per_query=True)
        np.testing.assert_allclose(found, wanted, atol=1e-9)
        assert (found <= 1).all()


def test_infinite_rewards_are_ranked():
    rewards = [[-math.inf, -math.inf, 0.0, math.inf, math.inf]]
    assert best_of_k(rewards, [[0, 0, 0, 1, 0]]) == 0.5
    assert reward_at_k_s(rewards, [[1, 0, 1, 1, 1]], s=4) == 0.5


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        (lambda: pass_at_k([[1, 0]], 3), r"k must be in 1\.\.2, got 3"),
        (lambda: pass_at_k([[1, 0]], 0), r"k must be in 1\.\.2, got 0"),
        (lambda: pass_at_k([1, 0]), r"correct_NK must be a matrix.*got shape \(2,\)"),
        (lambda: pass_at_k(np.zeros((0, 4))), "must be a matrix"),
        (lambda: pass_at_k_s([[1, 0]], [[1, 2]]), r"s must be in 1\.\.2, got 4"),
        (lambda: pass_at_k_s([[1, 0, 1]], [[1, 2, 3]], 2, s=3), r"s must be in 1\.\.2, got 3"),
        (
            lambda: pass_at_k_s([[1, 0]], [[1, 2, 3]], s=1),
            r"response_ids_NK must align.*got \(1, 3\), expected \(1, 2\)",
        ),
        (lambda: reward_at_k_s([[0.1, 0.2]], [[1, 0]], s=0), r"s must be in 1\.\.2, got 0"),
        (lambda: reward_at_k_s([[0.1, 0.2]], [[1]], s=1), "correct_NK must align"),
        (lambda: best_of_k([[0.1, math.nan]], [[1, 0]]), "rewards_NK must not hold NaN"),
        (lambda: distinct_equations([["1+1=2"]], [[True, False]]), "must have the same shape"),
        (lambda: distinct_equations([["1+1=2"], []], [[True]]), "must have the same shape"),
    ],
)
def test_refusals_name_what_came(figure, message):
    with pytest.raises(ConfigurationError, match=message):
        figure()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("8+5+9+8=3+9+8=2+8=0", ["8+5+9+8=3+9+8", "3+9+8=2+8", "2+8=0"]),
        ("She has 48 / 2 = <<48/2=24>>24 clips, 48 + 24 = 72.", ["48/2=24", "48+24=72"]),
        ("$12 + $3 = $15, and 20% x 50 = 10.", ["12+3=15", "20%x50=10"]),
        ("needs (36/3) x 2 = 24 sticks", ["(36/3)x2=24"]),
        ("1,000 + 2 = 1,002, 5+6=11", ["1,000+2=1,002", "5+6=11"]),
        ("1.5+.5=2.0. 3x4 = 12", ["1.5+.5=2.0", "3x4=12"]),
        ("(since 3+4=7) or (3 + 4 = 7)", ["3+4=7", "3+4=7"]),
        ("- 3 + 4 = 7\n- 2 + 5 = 7", ["3+4=7", "2+5=7"]),
        ("**3 + 4 = 7** and 2 * 3 = 6, 2**3=8", ["3+4=7", "2*3=6", "2**3=8"]),
        ("5 \u00d7 3 = 15; 12 \u2212 4 = 8; 9 \u00f7 3 = 3", ["5\u00d73=15", "12\u22124=8", "9\u00f73=3"]),
        (r"so $2x + 3 = 7$ and $x^2 = 4$.", ["2x+3=7", "x^2=4"]),
        (r"\[\frac{f(6) - f(2)}{6-2} = 3,\]", [r"\frac{f(6)-f(2)}{6-2}=3"]),
        (r"\begin{align*} a + b &= c + d \\ &= 5 \end{align*}", ["a+b=c+d", "c+d=5"]),
        (r"2 \cdot 3 = 6 \Rightarrow x + 1 = 2\implies -x + 1 = 0", [r"2\cdot3=6", "x+1=2", "-x+1=0"]),
        (r"\frac{1}{2} = 0.5", [r"\frac{1}{2}=0.5"]),
        ("Its price + tax = 25 dollars", ["price+tax=25"]),
        # No operator on the left, or nothing on a side.
        ("x = 5, -5 = y, f(2) = 3, 7 = 3 + 4", []),
        ("3 + 4 = ?", []),
        ("3 + = 5, 3 + 4 == 7, 3 + 4 <= 7, 7+1+5+9+8=", []),
        ("", []),
    ],
)
def test_equations_of_a_text(text, found):
    assert equations(text) == found


@pytest.mark.parametrize(
    "piece", ["1+", "(", "1,111", "1 + 2 ", " ", "1+((", "$", "-", "1)", "\\", "\\frac", "a ", "1* "]
)
def test_odd_texts_are_read_once(piece):
    # A fraction of a second. A search that starts anew at every place takes longer than the time limit of a test.
    assert equations(piece * (200_000 // len(piece))) == []


def test_distinct_equations_by_hand():
    responses = [["1+1=2, 2+2=4", "1 + 1 = 2", "9+9=18"], ["no sums", "3+3=6"], ["2*3=6 2*3=6"], []]
    correct = [[True, True, False], [True, False], [True], []]
    values = distinct_equations(responses, correct, per_query=True)
    np.testing.assert_allclose(values, [2 / 3, np.nan, 1 / 2, np.nan])
    assert distinct_equations(responses, correct) == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert math.isnan(distinct_equations([["no sums"]], [[True]]))
    assert math.isnan(distinct_equations([], []))


@pytest.mark.parametrize("seed", range(20))
def test_solved_unique_and_agreement_by_brute_force(seed):
    rng = np.random.default_rng(seed)
    num_queries, k = int(rng.integers(1, 8)), int(rng.integers(1, 7))
    correct = rng.random((num_queries, k)) < rng.random((num_queries, 1))
    texts = rng.integers(0, 4, (num_queries, k))
    values = rng.integers(0, 5, (num_queries, k)) / 4
    values[rng.random(values.shape) < 0.2] = np.nan

    kinds = ["never" if not any(row) else "always" if all(row) else "sometimes" for row in correct.tolist()]
    expected = [kinds.count(kind) / num_queries for kind in ("never", "sometimes", "always")]
    assert solved_shares(correct) == pytest.approx(expected)

    unique = [
        len({text for text, ok in zip(*row, strict=True) if ok})
        for row in zip(texts.tolist(), correct.tolist(), strict=True)
    ]
    assert unique_correct(correct, texts).tolist() == unique

    pairs = [
        (better > worse) + (better == worse) / 2
        for row, right in zip(values.tolist(), correct.tolist(), strict=True)
        for better, is_right in zip(row, right, strict=True)
        for worse, other_right in zip(row, right, strict=True)
        if is_right and not other_right and better == better and worse == worse
    ]
    found = agreement(values, correct)
    assert found == pytest.approx(np.mean(pairs)) if pairs else np.isnan(found)


def test_agreement_goes_from_none_to_always():
    correct = [[True, False], [False, True]]
    assert agreement([[1, 0], [0, 1]], correct) == 1.0
    assert agreement([[0, 0], [1, 1]], correct) == 0.5
    assert agreement([[0, 1], [1, 0]], correct) == 0.0
    with pytest.raises(ConfigurationError, match="must align"):
        agreement([[0, 1]], correct)
    with pytest.raises(ConfigurationError, match="must align"):
        unique_correct(correct, [[0, 1]])
    with pytest.raises(ConfigurationError, match="must be a matrix"):
        solved_shares([True])


@pytest.mark.parametrize("kind", ["shares", "numbers"])
def test_bootstrap_intervals_are_those_of_scipy(kind):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 9, 120) / 8 if kind == "shares" else rng.normal(3, 2, 120)
    expected = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", random_state=1)
    found = bootstrap_interval([*values, np.nan], draws=20_000)
    assert found == pytest.approx(tuple(expected.confidence_interval), abs=0.02 * values.std())
    wide = bootstrap_interval(values, level=0.99)
    assert wide[0] < found[0] < values.mean() < found[1] < wide[1]
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)


def test_bootstrap_intervals_of_little():
    assert bootstrap_interval([0.5]) == (0.5, 0.5)
    assert all(map(math.isnan, bootstrap_interval([])))
    assert all(map(math.isnan, bootstrap_interval([np.nan])))
