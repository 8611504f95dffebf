"""Measures of a process reward model against hand calculation, brute force and scipy."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from bstar_trl.errors import ConfigurationError
from bstar_trl.prm_training.measures import auc, first_error, first_error_scores, majority_vote, step_accuracy


def test_step_accuracy_by_hand():
    # Right, right (0.5 counts as right on both sides), wrong, wrong.
    assert step_accuracy([0.9, 0.5, 0.2, 0.6], [1.0, 0.5, 0.8, 0.1]) == 0.5
    assert step_accuracy([0.9, 0.5, 0.2, 0.6], [1.0, 0.5, 0.8, 0.1], threshold=0.7) == 0.5
    assert step_accuracy([0.9, 0.9], [True, False]) == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_the_share_of_pairs_in_order(seed):
    rng = np.random.default_rng(seed)
    scores, truth = rng.integers(6, size=40) / 5, rng.random(40) < 0.4  # with many ties
    pairs = [(a > b) + (a == b) / 2 for a in scores[truth] for b in scores[~truth]]
    assert auc(scores, truth) == pytest.approx(np.mean(pairs))
    statistic = mannwhitneyu(scores[truth], scores[~truth]).statistic
    assert auc(scores, truth) == pytest.approx(statistic / (truth.sum() * (~truth).sum()))


def test_auc_of_one_kind_only_is_unknown():
    assert math.isnan(auc([0.1, 0.2], [True, True]))
    assert math.isnan(auc([0.1, 0.2], [False, False]))


def test_first_error():
    assert first_error([0.9, 0.5, 0.4, 0.1]) == 2
    assert first_error([0.9, 0.5]) is None
    assert first_error([0.9, 0.5], threshold=0.6) == 1


def test_first_error_scores_by_hand():
    # Errors at 1 (found), 0 (found too late), 2 (found too early); two right solutions, one of them accused.
    probabilities = [[0.9, 0.1, 0.2], [0.8, 0.3], [0.9, 0.4, 0.1], [0.9], [0.6, 0.4]]
    labels = [[1, 0, 0], [0, 0], [1, 1, 0], [1], [1, 1]]
    scores = first_error_scores(probabilities, labels)
    assert scores["error_accuracy"] == pytest.approx(1 / 3)
    assert scores["right_accuracy"] == pytest.approx(1 / 2)
    assert scores["first_error_f1"] == pytest.approx(2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2))


def test_first_error_scores_without_one_kind_or_without_hits():
    only_right = first_error_scores([[0.9]], [[1]])
    assert only_right["right_accuracy"] == 1.0
    assert math.isnan(only_right["error_accuracy"])
    assert math.isnan(only_right["first_error_f1"])
    assert first_error_scores([[0.9], [0.1]], [[0], [1]])["first_error_f1"] == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: step_accuracy([0.1], [1, 0]), r"got shapes \(1,\) and \(2,\)"),
        (lambda: step_accuracy([], []), r"got shapes \(0,\)"),
        (lambda: auc([[0.1]], [[True]]), r"got shapes \(1, 1\)"),
        (lambda: first_error_scores([[0.1]], []), "got 0, expected 1"),
        (lambda: first_error_scores([[0.1]], [[1, 0]]), "each value needs one label"),
    ],
)
def test_arrays_that_do_not_align_are_refused(call, message):
    with pytest.raises(ConfigurationError, match=message):
        call()


def test_majority_vote_by_hand():
    assert majority_vote(["1", "2", "1"], [False, True, False]) == 0.0
    assert majority_vote(["1", "2", "2"], [False, True, True]) == 1.0
    assert majority_vote(["1", "2"], [False, True]) == 0.5
    assert majority_vote([None, None, "2"], [False, False, True]) == 1.0
    assert majority_vote([None, None], [False, False]) == 0.0


def test_majority_vote_by_brute_force():
    # A winner is drawn among the answers that nobody outnumbers.
    for answers in product("abc", repeat=4):
        winners = [item for item in "abc" if answers.count(item) == max(map(answers.count, answers))]
        expected = winners.count("a") / len(winners)
        assert majority_vote(answers, [item == "a" for item in answers]) == pytest.approx(expected)
