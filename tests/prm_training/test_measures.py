"""Measures of a process reward model against hand calculation, brute force and scipy."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from conftest import make_tokenizer
from datasets import Dataset
from scipy.stats import mannwhitneyu

from bstar_trl.errors import ConfigurationError
from bstar_trl.prm_training.data import check_row, encode_rows
from bstar_trl.prm_training.measures import (
    auc,
    best_of,
    evaluate_steps,
    first_error,
    first_error_scores,
    majority_vote,
    step_accuracy,
)


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


def make_rows(*rows: tuple[str, list[str], list, bool | None]) -> Dataset:
    names = ("prompt", "completions", "labels", "correct")
    return Dataset.from_list([check_row(dict(zip(names, row, strict=True))) for row in rows])


def test_every_measure_by_hand():
    rows = make_rows(
        ("1+2=", ["a", "3"], [1, 1], True),
        ("1+2=", ["b", "4"], [1, 0], False),
        ("4+4=", ["a", "c", "8"], [1, None, 1], None),  # no first error: a step was not judged
        ("5+5=", ["abcdefgh", "bcdefgha", "10"], [0, 0, 0], None),  # too long: loses its last two steps
        ("7+7=", ["abcdefghabcdefgh"], [1], None),  # too long: left out
    )
    encoding = encode_rows(rows, make_tokenizer(), max_length=14)
    assert encoding.dataset["row"][:] == [0, 1, 2, 3]
    probabilities = [np.array(row) for row in ([0.9, 0.8], [0.6, 0.95], [0.8, 0.1, 0.4], [0.2])]
    figures = evaluate_steps(probabilities, encoding.dataset, rows)
    assert figures["steps"] == 7
    assert figures["step_accuracy"] == pytest.approx(5 / 7)  # wrong at 0.95 (label 0) and 0.4 (label 1)
    # Right: .9 .8 .6 .8 .4; wrong: .95 .2. No right one is above .95, all are above .2.
    assert figures["step_auc"] == pytest.approx(5 / 10)
    assert figures["first_error_rows"] == 2
    assert figures["right_accuracy"] == 1.0
    assert figures["error_accuracy"] == 0.0
    assert figures["first_error_f1"] == 0.0
    assert figures["best_of_prompts"] == 1
    assert figures["k"] == 2
    assert figures["best_of_k"] == 1.0  # 0.8 against 0.6: the lowest step decides, not the last
    assert figures["pass@1"] == 0.5
    assert figures["pass@k"] == 1.0
    assert figures["majority"] == 0.5


def test_first_errors_of_steps_that_hold_the_separator():
    """The steps that were given count, each by its last part; the parts before have no label."""
    rows = make_rows(
        ("1=", ["a\nb", "c"], [1, 0], None), ("2=", ["a", "b\nc"], [1, 0], None), ("3=", ["a\nb"], [1], None)
    )
    encoding = encode_rows(rows, make_tokenizer())
    probabilities = [np.array(row) for row in ([0.2, 0.9, 0.1], [0.9, 0.1, 0.9], [0.1, 0.9])]
    figures = evaluate_steps(probabilities, encoding.dataset, rows)
    assert (figures["steps"], figures["first_error_rows"]) == (5, 3)
    assert figures["step_accuracy"] == pytest.approx(4 / 5)
    assert figures["error_accuracy"] == 0.5  # found in the first row; the second scores its wrong step at 0.9
    assert figures["right_accuracy"] == 1.0


def test_measures_without_a_value_are_left_out():
    rows = make_rows(("p", ["a"], [1], None))
    figures = evaluate_steps([np.array([0.9])], encode_rows(rows, make_tokenizer()).dataset, rows)
    assert set(figures) == {"steps", "step_accuracy", "first_error_rows", "right_accuracy"}


def test_best_of_against_majority():
    # Two of three agree on a wrong 0.5, once written 1/2; the scores know better. The second prompt has a fourth
    # solution, which does not count, and the third prompt has too few.
    rows = make_rows(
        ("x", ["#### 0.5"], [1], False),
        ("x", [r"\boxed{\frac{1}{2}}"], [1], False),
        ("x", ["The answer is 7."], [1], True),
        ("y", ["3"], [1], True),
        ("y", ["4"], [1], False),
        ("y", ["3"], [1], True),
        ("y", ["9"], [1], False),
        ("z", ["1"], [1], True),
    )
    figures = best_of(rows, [0.2, 0.3, 0.4, 0.1, 0.5, 0.1, 0.9, 1.0])
    assert figures == {
        "best_of_prompts": 2,
        "k": 3,
        "pass@1": pytest.approx((1 / 3 + 2 / 3) / 2),
        "majority": 0.5,
        "best_of_k": 0.5,
        "pass@k": 1.0,
    }


def test_a_stated_final_answer_is_the_vote():
    rows = [
        {"prompt": "x", "completions": ["the same"], "labels": [1], "correct": right, "final_answer": answer}
        for right, answer in ((True, "2"), (True, " 2.0 "), (False, "3"))
    ]
    figures = best_of(Dataset.from_list([check_row(row) for row in rows]), [0.1, 0.2, 0.3])
    assert figures["majority"] == 1.0
    assert figures["best_of_k"] == 0.0


def test_no_prompt_with_two_solutions_gives_nothing():
    assert best_of(make_rows(("x", ["1"], [1], True), ("y", ["1"], [1], True)), [0.1, 0.2]) == {}
    assert best_of(make_rows(("x", ["1"], [1], None), ("x", ["1"], [1], None)), [0.1, 0.2]) == {}
