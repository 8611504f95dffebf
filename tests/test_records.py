"""The columns that travel between the rooms."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bstar_trl.records import Rollouts, Selection, Setting, column_names, concatenate


class Reader:
    def read(self, rows):
        return list(rows)


def make_rollouts(query_ids, temperatures=None, first: int = 0) -> Rollouts:
    """Every column tells which response it belongs to."""
    number = np.arange(first, first + len(query_ids))
    return Rollouts(
        query_ids_R=np.array(query_ids, dtype=np.int64),
        temperatures_R=np.full(len(number), 1.0) if temperatures is None else np.array(temperatures, dtype=np.float64),
        rewards_R=number / 2,
        correct_R=number % 2 == 0,
        judged_R=number % 3 == 0,
        step_R=number / 4,
        chance_R=number / 1000,
        ended_R=number % 5 == 0,
        lengths_R=number.astype(np.int32) + 100,
        text_ids_R=number.astype(np.uint64) + np.uint64(2**63),
        values_RF=np.stack([number * 1.0, number * 2.0], axis=1),
        reasons_R=np.array([f"reason {item}" for item in number], dtype=object),
        rows_R=number,
        reader=Reader(),
    )


def check_whole_rows(rollouts: Rollouts) -> None:
    """Whatever was done with them, the columns of a response have stayed together."""
    number = rollouts.rows_R
    np.testing.assert_array_equal(rollouts.rewards_R, number / 2)
    np.testing.assert_array_equal(rollouts.correct_R, number % 2 == 0)
    np.testing.assert_array_equal(rollouts.judged_R, number % 3 == 0)
    np.testing.assert_array_equal(rollouts.step_R, number / 4)
    np.testing.assert_array_equal(rollouts.chance_R, number / 1000)
    np.testing.assert_array_equal(rollouts.ended_R, number % 5 == 0)
    np.testing.assert_array_equal(rollouts.lengths_R, number + 100)
    np.testing.assert_array_equal(rollouts.text_ids_R, number.astype(np.uint64) + np.uint64(2**63))
    np.testing.assert_array_equal(rollouts.values_RF, np.stack([number, 2 * number], axis=1))
    assert rollouts.reasons_R.tolist() == [f"reason {item}" for item in number]


def test_take_by_position_and_by_mask():
    rollouts = make_rollouts([4, 4, 9, 9, 9])
    taken = rollouts.take(np.array([3, 0, 3]))
    assert taken.query_ids_R.tolist() == [9, 4, 9]
    assert taken.rows_R.tolist() == [3, 0, 3]
    check_whole_rows(taken)
    masked = rollouts.take(np.array([False, True, False, False, True]))
    assert masked.rows_R.tolist() == [1, 4]
    check_whole_rows(masked)
    assert len(rollouts) == 5
    assert len(rollouts.take(np.zeros(5, dtype=bool))) == 0
    assert taken.reader is rollouts.reader


def test_at_a_temperature():
    rollouts = make_rollouts([1, 1, 2, 2], [0.7, 0.1 + 0.2, 0.3, 0.7])
    assert rollouts.at(0.7).rows_R.tolist() == [0, 3]
    assert rollouts.at(0.3).rows_R.tolist() == [2]  # this very temperature
    assert len(rollouts.at(1.0)) == 0


def test_concatenate_keeps_the_order():
    parts = [make_rollouts([3, 1]), make_rollouts([], first=2), make_rollouts([2, 3, 3], first=2)]
    whole = concatenate(parts)
    assert whole.query_ids_R.tolist() == [3, 1, 2, 3, 3]
    check_whole_rows(whole)
    assert whole.reader is parts[0].reader
    for name in column_names():
        assert getattr(whole, name).dtype == getattr(parts[0], name).dtype, name


def test_grid_by_hand():
    # Query 8 comes first, then 2; their responses are interleaved, and 2 has one less.
    grid = make_rollouts([8, 2, 8, 5, 8, 2, 5, 5]).grids.index_NK
    np.testing.assert_array_equal(grid, [[0, 2, 4], [1, 5, -1], [3, 6, 7]])


def test_grid_of_random_rows():
    rng = np.random.default_rng(0)
    for _ in range(50):
        query_ids = rng.integers(0, 6, int(rng.integers(1, 30)))
        grid = make_rollouts(query_ids).grids.index_NK
        wanted = {query: np.flatnonzero(query_ids == query).tolist() for query in dict.fromkeys(query_ids.tolist())}
        assert [[place for place in row if place >= 0] for row in grid.tolist()] == list(wanted.values())
        assert grid.shape == (len(wanted), max(map(len, wanted.values())))


def test_grid_of_nothing():
    assert make_rollouts([]).grids.index_NK.shape == (0, 0)


def test_records_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_rollouts([1]).rewards_R = np.zeros(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Setting(1.0, 0.5).threshold = 0.0


def test_a_selection_is_as_long_as_its_rollouts():
    assert len(Selection(make_rollouts([1, 1, 2]), wanted=5)) == 3
