"""The balance score against hand calculation, the exact threshold search against brute force."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from conftest import DATA, SHARED, skip_without

from bstar_trl.balance import balance_score, best_threshold, mean_balance_score
from bstar_trl.errors import BStarError, ConfigurationError, RewardError


def naive_score(rewards, correct, selectable, target, threshold) -> float:
    """Equation 3 as it stands in the paper, averaged, response by response."""
    total = 0.0
    for row, right, may in zip(rewards, correct, selectable, strict=True):
        selected = [ok for reward, ok, able in zip(row, right, may, strict=True) if able and reward > threshold]
        if selected:
            total += min(sum(selected) / target, 1.0) * sum(selected) / len(selected)
    return total / len(rewards)


def naive_candidates(rewards, selectable) -> list[float]:
    """One just below the smallest reward, and the midpoints between neighbours that differ by more than 1e-9."""
    values = sorted(np.asarray(rewards, dtype=np.float64)[np.asarray(selectable, dtype=bool)].tolist())
    if not values:
        return [0.0]
    middles = [(a + b) / 2 for a, b in pairwise(values) if b - a > 1e-9]
    return sorted({values[0] - 1e-6, *middles})


def naive_best(rewards, correct, selectable, target, candidates) -> tuple[float, float]:
    """The highest of the candidates whose score is within 1e-12 of the best."""
    scores = [naive_score(rewards, correct, selectable, target, value) for value in candidates]
    best = max(scores)
    return max((value, score) for value, score in zip(candidates, scores, strict=True) if score >= best - 1e-12)


def make_case(seed: int, kind: str):
    """Small random inputs: rewards with many ties, or hardly any; some queries without anything to select."""
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 7)), int(rng.integers(1, 9)))
    if kind == "few values":
        rewards = rng.integers(-2, 3, shape) / 4
    elif kind == "answer and process":
        rewards = rng.integers(0, 2, shape) + np.round(rng.uniform(-1, 1, shape), 1)
    else:
        rewards = rng.normal(size=shape) * 10.0 ** rng.integers(-3, 4)
    correct = rng.random(shape) < rng.choice([0.0, 0.3, 0.7, 1.0])
    selectable = rng.random(shape) < rng.choice([0.0, 0.5, 0.9, 1.0])
    selectable[rng.random(shape[0]) < 0.2] = False
    return rewards, correct, selectable, float(rng.choice([0.5, 1, 1.7, 4, 5.87]))


def test_score_by_hand():
    # The paper's examples, section 3.1, with n* = 4: two correct ones of two, and 16 of 64; then the cap, and nothing.
    scores = balance_score([2, 16, 4, 8, 3, 0, 0], [2, 64, 4, 8, 6, 5, 0], 4)
    np.testing.assert_allclose(scores, [0.5, 0.25, 1.0, 1.0, 0.375, 0.0, 0.0], rtol=0, atol=1e-15)


def test_score_broadcasts_over_any_shape():
    scores = balance_score(np.array([[1], [2]]), np.array([2, 4, 8]), 2)
    np.testing.assert_allclose(scores, [[0.25, 0.125, 0.0625], [1.0, 0.5, 0.25]])
    assert balance_score(1, 2, 4) == 0.125


def test_score_with_extreme_targets():
    with np.errstate(all="raise"):
        assert balance_score(3, 4, 1e-320) == 0.75
        assert balance_score(3, 4, 1e300) == pytest.approx(2.25e-300)


@pytest.mark.parametrize(("num_correct", "num_selected"), [(-1, 2), (3, 2), (math.nan, 2), ([0, 1], [0, 0])])
def test_score_refuses_impossible_counts(num_correct, num_selected):
    with pytest.raises(ConfigurationError, match="num_correct must be in"):
        balance_score(num_correct, num_selected, 4)


@pytest.mark.parametrize("target", [0, -1.0, math.nan, math.inf])
def test_target_must_be_positive(target):
    with pytest.raises(ConfigurationError, match=r"target \(n\*\) must be greater than 0, got"):
        balance_score(1, 2, target)
    with pytest.raises(ValueError, match="target"):
        best_threshold([[1.0]], [[True]], target)


@pytest.mark.parametrize("kind", ["few values", "answer and process", "continuous"])
def test_search_equals_brute_force(kind):
    for seed in range(150):
        rewards, correct, selectable, target = make_case(seed, kind)
        candidates = naive_candidates(rewards, selectable)
        wanted = naive_best(rewards, correct, selectable, target, candidates)
        found = best_threshold(rewards, correct, target, selectable_NK=selectable)
        assert found == pytest.approx(wanted, abs=1e-12), seed


def lucky_score(rewards, correct, selectable, target, threshold, odds, step) -> float:
    """Equation 3 with the expected lucky responses taken from the correct ones, response by response."""
    total = 0.0
    for query, row in enumerate(rewards):
        selected = right = would_be = 0
        for place, reward in enumerate(row):
            if selectable[query][place]:
                selected += reward > threshold
                right += reward > threshold and correct[query][place]
                would_be += not correct[query][place] and reward + step[query][place] > threshold
        credited = max(right - odds[query] * would_be, 0.0)
        if selected:
            total += min(credited / target, 1.0) * credited / selected
    return total / len(rewards)


@pytest.mark.parametrize("kind", ["few values", "answer and process", "continuous"])
def test_search_with_luck_equals_brute_force(kind):
    moved = 0
    for seed in range(120):
        rewards, correct, selectable, target = make_case(seed, kind)
        rng = np.random.default_rng([seed, 1])
        chance = rng.choice([0.0, 0.1, 0.25, 0.5], size=len(rewards))
        step = np.round(rng.uniform(0, 1.5, rewards.shape), 1)
        odds = chance / (1 - chance)
        may, doubtful = selectable, selectable & ~correct & (odds > 0)[:, None]
        values = np.concatenate([rewards[may], (rewards + step)[doubtful]])
        candidates = naive_candidates(values[None], np.ones((1, len(values)), dtype=bool))
        scores = [lucky_score(rewards, correct, may, target, value, odds, step) for value in candidates]
        best = max(value for value, score in zip(candidates, scores, strict=True) if score >= max(scores) - 1e-12)
        found = best_threshold(rewards, correct, target, selectable_NK=selectable, chance=chance, step_if_correct=step)
        assert found == pytest.approx((best, max(scores)), abs=1e-12), seed
        one = mean_balance_score(
            rewards, correct, target, 0.2, selectable_NK=selectable, chance=chance, step_if_correct=step
        )
        assert one == pytest.approx(lucky_score(rewards, correct, may, target, 0.2, odds, step), abs=1e-12)
        moved += found != pytest.approx(best_threshold(rewards, correct, target, selectable_NK=selectable))
    assert moved > 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chance": 1.0}, "chance must be at least 0 and below 1"),
        ({"chance": [0.1, 0.1, 0.1]}, r"one per query \(2\)"),
        ({"step_if_correct": -0.5}, "step_if_correct must be finite and at least 0"),
        ({"step_if_correct": [1.0, 2.0]}, "step_if_correct must be a number or have the shape of rewards_NK"),
    ],
)
def test_impossible_luck_is_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        best_threshold([[0.1, 0.2], [0.3, 0.4]], [[0, 1], [0, 1]], 1, **options)


def test_no_threshold_anywhere_is_better():
    for seed in range(60):
        rewards, correct, selectable, target = make_case(seed, "answer and process")
        rewards = np.round(rewards, 1)  # 0.3 and 1 - 0.7 are the same reward, and no threshold lies between them
        _, score = best_threshold(rewards, correct, target, selectable_NK=selectable)
        for value in np.unique(rewards):
            for threshold in (value, np.nextafter(value, -9), np.nextafter(value, 9), value - 0.01, value + 0.01):
                assert naive_score(rewards, correct, selectable, target, threshold) <= score + 1e-12


def test_grid_equals_brute_force():
    grid = np.round(np.arange(-1.0, 1.01, 0.1), 1)  # the paper's
    for seed in range(100):
        rewards, correct, selectable, target = make_case(seed, "answer and process")
        wanted = naive_best(rewards, correct, selectable, target, grid.tolist())
        found = best_threshold(rewards, correct, target, selectable_NK=selectable, thresholds=grid[::-1])
        assert found == pytest.approx(wanted, abs=1e-12), seed


@pytest.mark.parametrize("prefix", [DATA / "replay", SHARED / "replay" / "shared"], ids=["few", "all"])
@pytest.mark.parametrize("stage", [0, 3])
def test_recorded_samples_equal_brute_force(stage, prefix):
    data = np.load(skip_without(prefix.with_name(f"{prefix.name}_stage{stage}.npz")))
    for index in (0, 5, 10):  # of the temperatures
        correct, ids = data["correct"][index], data["solution_id"][index]
        rewards = correct + data["process_reward"][index].astype(np.float64)
        selectable = np.array([[text not in row[:place] for place, text in enumerate(row)] for row in ids.tolist()])
        found = best_threshold(rewards, correct, 4, selectable_NK=selectable)
        # All thresholds: between every two neighbouring rewards.
        values = np.unique(rewards[selectable])
        candidates = np.concatenate([[values[0] - 1e-6], (values[:-1] + values[1:]) / 2])
        scores = []
        for threshold in candidates:
            selected = selectable & (rewards > threshold)
            n, right = selected.sum(axis=1), (selected & correct).sum(axis=1)
            scores.append(np.mean(np.minimum(right / 4, 1) * right / np.maximum(n, 1)))
        best = np.flatnonzero(np.array(scores) >= max(scores) - 1e-12)[-1]
        assert found == pytest.approx((candidates[best], scores[best]), abs=1e-12)
        assert 0.05 < found[1] < 1


def test_ties_go_to_the_highest_threshold():
    # Above 3, 2 and 1 the one query has 1 of 1, 2 of 2 and 3 of 3 correct: with n* = 1 all are equally good.
    assert best_threshold([[1.0, 2.0, 3.0, 4.0]], [[0, 1, 1, 1]], 1) == (3.5, 1.0)
    # With n* = 2 the highest two thresholds fall behind.
    assert best_threshold([[1.0, 2.0, 3.0, 4.0]], [[0, 1, 1, 1]], 2) == (2.5, 1.0)
    assert best_threshold([[1.0, 2.0, 3.0, 4.0]], [[0, 1, 1, 1]], 1, thresholds=[0.0, 1.0, 2.2, 1.5]) == (2.2, 1.0)


def test_ties_are_not_decided_by_rounding():
    # n* = 7: 6 of 8 and 9 of 14 score 9/14 both, the second one unit of the last place more.
    correct = [[0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1]]
    assert balance_score(9, 14, 7) > balance_score(6, 8, 7)
    assert best_threshold(-np.arange(14.0)[None], correct, 7) == (-7.5, pytest.approx(9 / 14))


def test_ties_hold_for_very_many_queries():
    # All queries reach 5 / 6, lose it, and reach 10 / 12: the same score twice, 600,000 steps of rounding apart.
    queries = 50_000
    correct = np.tile(np.array([0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1], dtype=bool), (queries, 1))
    rewards = -(np.arange(12)[None, :] * float(queries) + np.arange(queries)[:, None])
    assert best_threshold(rewards, correct, 5) == (-6 * queries + 0.5, pytest.approx(5 / 6, abs=1e-12))


def test_rewards_within_1e9_are_one():
    # Each is within 1e-9 of the next, so none of them can be cut off, though the correct one is the highest.
    threshold, score = best_threshold([[1.0, 1.0 + 0.9e-9, 1.0 + 1.8e-9]], [[0, 0, 1]], 1)
    assert (threshold, score) == (1.0 - 1e-6, pytest.approx(1 / 3))
    threshold, score = best_threshold([[1.0, 1.0 + 0.9e-9, 1.0 + 3e-9]], [[0, 0, 1]], 1)
    assert score == 1.0
    assert 1.0 + 0.9e-9 < threshold < 1.0 + 3e-9


def test_just_below_the_smallest():
    assert best_threshold([[0.25, 0.25]], [[1, 1]], 2) == (0.25 - 1e-6, 1.0)
    assert best_threshold([[7]], [[True]], 1) == (7 - 1e-6, 1.0)


def test_nothing_to_select():
    nothing = np.zeros((2, 2), dtype=bool)
    nan = np.full((2, 2), math.nan)  # no reward is looked at where nothing is selectable
    assert best_threshold(nan, nothing, 1, selectable_NK=nothing) == (0.0, 0.0)
    assert best_threshold(nan, nothing, 1, selectable_NK=nothing, thresholds=[0.1, 0.3]) == (0.3, 0.0)


def test_nothing_correct_is_finite_and_scores_0():
    threshold, score = best_threshold([[0.1, 0.9], [0.4, 0.4]], np.zeros((2, 2)), 3)
    assert (threshold, score) == (pytest.approx(0.65), 0.0)


@pytest.mark.parametrize(
    ("rewards", "correct", "score"),
    [
        ([[-1.7e308, 1.7e308]], [[0, 1]], 1.0),
        ([[1e300, 2e300]], [[1, 1]], 1.0),
        ([[1e17, 1e17 + 16, 1e17 + 32, 1e17 + 48]], [[0, 0, 0, 1]], 1.0),
        ([[1e17, 1e17 + 16, 1e17 + 32]], [[0, 0, 1]], 1.0),
        ([[1e17, 1e17 + 16]], [[1, 1]], 1.0),
        ([[-1.7976931348623157e308, 0.0]], [[0, 1]], 1.0),
        ([[-1.7976931348623157e308, 0.0]], [[1, 1]], 0.5),  # no finite threshold lies below the smallest
        ([[1e-300, 2e-300]], [[0, 1]], 0.5),
        ([[5e-324, 1.0]], [[0, 1]], 1.0),
    ],
)
def test_huge_and_tiny_rewards(rewards, correct, score):
    target = int(np.sum(correct))
    with np.errstate(all="raise", under="ignore"):
        threshold, found = best_threshold(rewards, correct, target)
    assert math.isfinite(threshold)
    assert found == score
    assert naive_score(rewards, correct, np.ones_like(correct), target, threshold) == found


def test_returned_score_is_what_the_threshold_selects():
    for seed in range(80):
        rewards, correct, selectable, target = make_case(seed, "few values")
        for options in ({}, {"thresholds": [-0.25, 0.0, 0.25]}):
            threshold, score = best_threshold(rewards, correct, target, selectable_NK=selectable, **options)
            assert math.isfinite(threshold)
            assert score == pytest.approx(naive_score(rewards, correct, selectable, target, threshold), abs=1e-15)
            assert score == mean_balance_score(rewards, correct, target, threshold, selectable_NK=selectable)


def test_any_array_like():
    rewards = np.array([[0.0, 1.0, 1.0, 2.0], [1.0, 0.0, 0.0, 3.0]])
    correct = np.array([[0, 1, 0, 1], [1, 0, 0, 1]])
    wanted = naive_best(rewards, correct, np.ones_like(correct), 2, naive_candidates(rewards, np.ones_like(correct)))
    assert best_threshold(rewards, correct, 2) == wanted
    assert best_threshold(rewards.tolist(), correct.tolist(), 2) == wanted
    assert best_threshold(rewards.astype(np.float32), correct.astype(bool), 2) == wanted
    assert best_threshold(rewards.astype(np.int8), correct.astype(np.uint8), 2) == wanted
    assert best_threshold(np.asfortranarray(rewards), correct[:, ::-1][:, ::-1], 2) == wanted
    wide = np.repeat(rewards, 2, axis=1)
    assert best_threshold(wide[:, ::2], correct, 2, selectable_NK=np.ones_like(correct).tolist()) == wanted
    assert best_threshold([[True, False]], [[True, False]], 1) == (0.5, 1.0)
    threshold, score = best_threshold(rewards, correct, 2)
    assert (type(threshold), type(score)) == (float, float)


def test_inputs_are_left_alone():
    rewards, correct = np.array([[2.0, 1.0], [0.0, 3.0]]), np.array([[True, False], [False, True]])
    kept = rewards.copy(), correct.copy()
    best_threshold(rewards, correct, 1, selectable_NK=correct)
    np.testing.assert_array_equal(rewards, kept[0])
    np.testing.assert_array_equal(correct, kept[1])


@pytest.mark.parametrize(
    ("rewards", "correct", "options", "message"),
    [
        ([1.0, 2.0], [1, 0], {}, r"matrix with at least one query and response, got shape \(2,\)"),
        (np.zeros((0, 3)), np.zeros((0, 3)), {}, r"got shape \(0, 3\)"),
        (np.zeros((3, 0)), np.zeros((3, 0)), {}, r"got shape \(3, 0\)"),
        ([[1.0, 2.0]], [[1]], {}, r"must align: got \(1, 2\), \(1, 1\)"),
        ([[1.0]], [[1]], {"selectable_NK": [[1, 1]]}, r"must align"),
        ([[1.0]], [[1]], {"thresholds": []}, "grid of finite numbers"),
        ([[1.0]], [[1]], {"thresholds": [0.0, math.inf]}, "grid of finite numbers"),
    ],
)
def test_refusals_name_what_came(rewards, correct, options, message):
    with pytest.raises(ConfigurationError, match=message):
        best_threshold(rewards, correct, 1, **options)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_rewards_must_be_finite_where_they_count(value):
    rewards = np.array([[1.0, 2.0], [3.0, value]])
    with pytest.raises(RewardError, match="response 1 of query 1") as caught:
        best_threshold(rewards, np.ones((2, 2)), 1)
    assert isinstance(caught.value, (BStarError, ValueError))
    assert best_threshold(rewards, np.ones((2, 2)), 1, selectable_NK=[[1, 1], [1, 0]])[1] == 1.0
