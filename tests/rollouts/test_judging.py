"""What the verifiers' values mean: limits, several judges, and the comparison within a query."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from bstar_trl.errors import DatasetError, RewardError
from bstar_trl.records import Rollouts
from bstar_trl.rollouts.judging import Verifiers

NAN = float("nan")


def limited(limit):
    def judge(completions, **kwargs):
        return []

    judge.correct_at = limit
    return judge


def plain(completions, **kwargs):
    return []


@pytest.mark.parametrize(
    ("functions", "indices", "given", "expected"),
    [
        ([plain], [0], None, (1.0,)),
        ([limited(0.25)], [0], None, (0.25,)),
        ([limited(0.25)], [0], 0.5, (0.5,)),
        (["org/reward-model"], [0], None, (None,)),
        ([nn.Linear(1, 1)], [0], None, (None,)),
        (["org/reward-model"], [0], 0.0, (0.0,)),
        (["org/reward-model", plain], [0], None, (1.0,)),  # with other rewards its value has to mean something
        ([plain, limited(2.0), limited(0.5)], [2, 0], None, (0.5, 1.0)),
    ],
)
def test_limits(functions, indices, given, expected):
    names = [f"f{index}" for index in range(len(functions))]
    verifiers = Verifiers.of(functions, names, indices, given)
    assert verifiers.limits == expected
    assert verifiers.names == tuple(f"f{index}" for index in indices)


def test_each_row_has_its_own_judge_and_limit():
    verifiers = Verifiers((2, 0), ("code", "math"), (0.5, 1.0))
    values_RF = np.array([[1.0, 9.0, NAN], [0.9, 9.0, NAN], [NAN, 9.0, 0.5], [NAN, 9.0, 0.4], [NAN, 9.0, NAN]])
    ids = np.arange(5)
    assert verifiers.judges(values_RF, ids).tolist() == [1, 1, 0, 0, -1]
    assert verifiers.correct(values_RF, ids).tolist() == [True, False, True, False, False]


def test_two_judges_of_a_row_are_an_error():
    verifiers = Verifiers((0, 1), ("math", "code"), (1.0, 1.0))
    with pytest.raises(RewardError, match=r"'math' and 'code' both judge query 17.*column 'verifier'"):
        verifiers.correct(np.array([[1.0, NAN], [0.0, 0.0]]), np.array([3, 17]))


def test_relative_correctness_against_a_loop():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 20, 200)
    values = rng.normal(size=200).round(1)
    values[rng.random(200) < 0.1] = NAN
    got = Verifiers((0,), ("model",), (None,)).correct(values[:, None], ids)
    for place in range(200):
        mine = [values[other] for other in range(200) if ids[other] == ids[place] and not np.isnan(values[other])]
        expected = bool(mine) and not np.isnan(values[place]) and values[place] > sum(mine) / len(mine) + 1e-12
        assert got[place] == expected


@pytest.mark.parametrize("value", [0.1, 1 / 3, -7e-5])
def test_equal_values_are_never_above_their_mean(value):
    values = np.full((7, 1), value)
    assert not Verifiers((0,), ("model",), (None,)).correct(values, np.zeros(7, dtype=int)).any()


def test_a_row_names_its_judge():
    verifiers = Verifiers((0, 2), ("math", "code"), (1.0, 1.0))
    assert [verifiers.of_row({"verifier": name}) for name in ("code", "math", None)] == [2, 0, None]
    assert verifiers.of_row({}) is None
    with pytest.raises(DatasetError, match=r"'verifier' must hold.*\(math, code\) or None, got 'maths'"):
        verifiers.of_row({"verifier": "maths"})
    # One verifier judges everything; a column of that name is then somebody else's.
    assert Verifiers((0,), ("math",), (1.0,)).of_row({"verifier": "a person"}) is None


def test_the_values_are_explained():
    verifiers = Verifiers((0, 1, 2), ("a", "b", "c"), (1.0, None, 0.5))
    text = verifiers.explained(np.array([[-1.0, 0.5, NAN], [0.25, 0.5, NAN]]))
    assert "the values of 'a' lie between -1 and 0.25, and correct is at least 1" in text
    assert "the values of 'b' are all 0.5, and correct is above the mean of its query's responses" in text
    assert "'c'" not in text


def test_candidates_against_a_loop():
    rng = np.random.default_rng(1)
    verifiers = Verifiers((0, 1), ("a", "b"), (1.0, 1.0))
    some, none = 0, 0
    for _ in range(60):
        size = 24
        ids = np.repeat(np.arange(6), 4)
        values = np.full((size, 3), NAN)
        values[np.arange(size), ids % 2] = rng.random(size) < 0.12
        values[:, 2] = rng.random(size)
        rewards = np.nan_to_num(values).sum(axis=1)
        rollouts = Rollouts(
            query_ids_R=ids,
            temperatures_R=np.ones(size),
            rewards_R=rewards,
            correct_R=verifiers.correct(values, ids),
            judged_R=np.ones(size, dtype=bool),
            step_R=np.zeros(size),
            chance_R=np.zeros(size),
            ended_R=rng.random(size) < 0.8,
            lengths_R=np.ones(size, dtype=np.int32),
            text_ids_R=np.arange(size, dtype=np.uint64),
            values_RF=values,
            reasons_R=np.full(size, None),
            rows_R=np.arange(size),
            reader=None,
        )
        got = verifiers.candidates(rollouts, 0.5)
        for row in range(6):
            hope = any(
                rollouts.correct_R[i] and rollouts.ended_R[i] and rewards[i] > 0.5
                for i in range(size)
                if ids[i] % 2 == row % 2
            )
            expected = [bool(rollouts.ended_R[4 * row + column]) and hope for column in range(4)]
            assert got[row].tolist() == expected
            some, none = some + hope, none + (not hope)
    assert min(some, none) > 20
