"""The store over one and over several processes, and the mask that decides what is selectable."""

from __future__ import annotations

import dataclasses
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bstar_trl.records import Completion
from bstar_trl.rollouts.store import RolloutStore, text_id


def make_completion(query_id: int, text: str, finish_reason="stop", temperature=1.0) -> Completion:
    return Completion(query_id, temperature, (1, 2), list(range(len(text) + 1)), text, finish_reason)


def add(store: RolloutStore, completions, rewards=None, correct=None, judged=None):
    number = len(completions)
    added = store.add(
        completions,
        rewards_R=np.arange(number, dtype=np.float64) if rewards is None else np.array(rewards, dtype=np.float64),
        values_RF=np.zeros((number, 1)),
        reasons_R=np.full(number, None, dtype=object),
    )
    number = len(added)
    return dataclasses.replace(
        added,
        correct_R=np.ones(number, dtype=bool) if correct is None else np.array(correct, dtype=bool),
        judged_R=np.ones(number, dtype=bool) if judged is None else np.array(judged, dtype=bool),
    )


def make_store() -> RolloutStore:
    return RolloutStore(0, gather=lambda items: items)


class Collective:
    """`gather` between threads that stand for processes: what each gives is pickled, and everybody gets it all."""

    def __init__(self, processes: int):
        self.given = [None] * processes
        self.barrier = threading.Barrier(processes, timeout=20)

    def gather_for(self, process: int):
        def gather(items):
            self.given[process] = pickle.dumps(items)
            self.barrier.wait()
            gathered = [item for part in self.given for item in pickle.loads(part)]
            self.barrier.wait()
            return gathered

        return gather


def on_every_process(processes: int, work):
    """`work(store, process)` on each of them at once."""
    collective = Collective(processes)
    stores = [RolloutStore(process, collective.gather_for(process)) for process in range(processes)]
    with ThreadPoolExecutor(processes) as pool:
        return list(pool.map(work, stores, range(processes)))


def test_columns_of_what_was_added():
    store = make_store()
    completions = [make_completion(7, "abc", "length", 0.7), make_completion(3, "d", temperature=1.2)]
    rollouts = add(store, completions, rewards=[0.5, -1.0])
    assert rollouts.query_ids_R.tolist() == [7, 3]
    assert rollouts.temperatures_R.tolist() == [0.7, 1.2]
    assert rollouts.rewards_R.tolist() == [0.5, -1.0]
    assert rollouts.ended_R.tolist() == [False, True]
    assert rollouts.lengths_R.tolist() == [4, 2]
    assert rollouts.text_ids_R.dtype == np.uint64
    assert store.size == 2


def test_reading_back_in_any_order():
    store = make_store()
    first = [make_completion(1, "a"), make_completion(1, "b")]
    second = [make_completion(2, "c")]
    add(store, first)
    rollouts = add(store, second)
    assert rollouts.reader.read(rollouts.rows_R) == second
    assert store.read(np.array([2, 0, 2, 1])) == [second[0], first[0], second[0], first[1]]
    assert store.read(np.array([], dtype=np.int64)) == []


def test_nothing_added():
    rollouts = add(make_store(), [])
    assert len(rollouts) == 0
    assert rollouts.grids.index_NK.shape == (0, 0)


def test_three_processes_see_the_same_and_read_anybody():
    sampled = [
        [make_completion(10, "a"), make_completion(11, "b")],
        [],
        [make_completion(12, "c"), make_completion(13, "d"), make_completion(14, "e")],
    ]

    def work(store, process):
        add(store, sampled[process][:1])
        rollouts = add(store, sampled[process][1:])
        mixed = rollouts.take(np.array([1, 2, 0, 1]))
        return rollouts.query_ids_R.tolist(), rollouts.rows_R.tolist(), mixed.reader.read(mixed.rows_R), store.size

    results = on_every_process(3, work)
    for query_ids, rows, texts, _ in results:
        assert query_ids == [11, 13, 14]  # those of the first process first
        assert rows == results[0][1]
        assert texts == [sampled[2][1], sampled[2][2], sampled[0][1], sampled[2][1]]
    assert len(set(results[0][1])) == 3
    assert [size for *_, size in results] == [2, 0, 3]


def test_where_a_row_lives():
    def work(store, process):
        rollouts = add(store, [make_completion(process, "a"), make_completion(process, "b")])
        return store.locate(rollouts.rows_R)

    for owners, places in on_every_process(2, work):
        assert owners == [0, 0, 1, 1]
        assert places == [0, 1, 0, 1]


def test_text_ids():
    assert text_id("3+4=7") == text_id("3+4=7  \n\t")
    others = ["3+4=7", " 3+4=7", "3+4= 7", "3+4=7.", "", "\ud800", "e\u0301", "\u00e9"]
    assert len({text_id(text) for text in others}) == len(others)
    assert text_id("") == text_id("\n")
    assert all(0 <= text_id(text) < 2**64 for text in others)
    # 64 bits: no two of many texts are taken for one.
    assert len({text_id(str(number)) for number in range(50_000)}) == 50_000


def test_grids_by_hand():
    completions = [
        make_completion(5, "right", "length"),  # cut off: not selectable, so that the next one is the first
        make_completion(5, "right"),
        make_completion(5, "right \n"),  # the same text
        make_completion(5, "other"),
        make_completion(2, "right"),  # another query's
        make_completion(2, "unjudged"),
        make_completion(2, "unjudged"),
    ]
    rewards = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.5]
    judged, correct = [1, 1, 1, 1, 1, 0, 1], [1, 1, 1, 0, 1, 0, 1]
    arrays = add(make_store(), completions, rewards, correct, judged).grids
    np.testing.assert_array_equal(arrays.index_NK, [[0, 1, 2, 3], [4, 5, 6, -1]])
    np.testing.assert_array_equal(arrays.selectable_NK, [[0, 1, 0, 1], [1, 0, 1, 0]])
    np.testing.assert_array_equal(arrays.correct_NK, [[1, 1, 1, 0], [1, 0, 1, 0]])
    np.testing.assert_array_equal(arrays.rewards_NK, [[6.0, 5.0, 4.0, 3.0], [2.0, 1.0, 0.5, 0.0]])
    assert arrays.text_ids_NK[0, 0] == arrays.text_ids_NK[0, 1] == arrays.text_ids_NK[0, 2] != arrays.text_ids_NK[0, 3]


def test_what_fills_up_short_rows_is_never_anything():
    # The last response, which index -1 would name, is correct and selectable.
    completions = [make_completion(1, "a"), make_completion(2, "b"), make_completion(2, "c")]
    arrays = add(make_store(), completions, rewards=[1, 2, 3]).grids
    np.testing.assert_array_equal(arrays.index_NK[0], [0, -1])
    assert not arrays.correct_NK[0, 1]
    assert not arrays.selectable_NK[0, 1]
    assert arrays.rewards_NK[0, 1] == 0.0


def test_rollouts_on_their_way_cannot_be_read():
    def gather(items):
        with pytest.raises(RuntimeError, match="until the rollouts are gathered"):
            items[0].reader.read(items[0].rows_R)
        return items

    add(RolloutStore(0, gather), [make_completion(1, "a")])
