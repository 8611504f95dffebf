"""Seeded orders, epochs, streams, and a stream that is continued elsewhere."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset, IterableDataset

from bstar_trl.errors import DatasetError
from bstar_trl.rollouts.queries import MapQueries, StreamQueries, make_queries


def make_rows(size: int) -> Dataset:
    return Dataset.from_dict({"prompt": [f"p{index}" for index in range(size)], "number": list(range(size))})


def numbers(first: int, last: int):
    for number in range(first, last):
        yield {"prompt": f"p{number}", "number": number}


def make_stream(size: int) -> IterableDataset:
    return IterableDataset.from_generator(numbers, gen_kwargs={"first": 0, "last": size})


def take_rows(queries, n: int) -> list[int]:
    return [queries[query_id]["number"] for query_id in queries.take(n)]


def test_the_kind_follows_the_dataset():
    assert isinstance(make_queries(make_rows(3), shuffle=True, seed=0), MapQueries)
    assert isinstance(make_queries(make_stream(3), shuffle=False, seed=0), StreamQueries)


def test_an_epoch_holds_every_row_once():
    queries = make_queries(make_rows(12), shuffle=True, seed=0)
    epochs = [[query_id for _ in range(3) for query_id in queries.take(4)] for _ in range(4)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(12))
    assert len(set(map(tuple, epochs))) == 4  # each in its own order
    assert list(range(12)) not in epochs


def test_an_id_is_its_row():
    queries = make_queries(make_rows(9), shuffle=True, seed=1)
    assert [queries[query_id]["prompt"] for query_id in queries.take(9)] != [f"p{index}" for index in range(9)]
    assert all(queries[query_id]["number"] == query_id for query_id in range(9))


def test_the_last_iteration_of_an_epoch_is_filled_without_repeats():
    queries = make_queries(make_rows(7), shuffle=True, seed=3)
    takes = [queries.take(5) for _ in range(14)]
    assert all(len(set(ids)) == 5 for ids in takes)
    flat = [query_id for ids in takes for query_id in ids]
    assert all(flat.count(query_id) == 10 for query_id in range(7))  # 14 x 5 = ten epochs of 7
    first = queries.__class__(make_rows(7), shuffle=True, seed=3)
    assert sorted(first.take(5) + first.take(5)[:2]) == list(range(7))


def test_the_order_of_the_dataset():
    queries = make_queries(make_rows(5), shuffle=False, seed=9)
    assert [queries.take(3) for _ in range(4)] == [[0, 1, 2], [3, 4, 0], [1, 2, 3], [4, 0, 1]]


def test_everything_at_once_again_and_again():
    queries = make_queries(make_rows(4), shuffle=False, seed=0)
    assert [queries.take(4) for _ in range(3)] == [[0, 1, 2, 3]] * 3


def test_the_seed_decides():
    one, same, other = (make_queries(make_rows(50), shuffle=True, seed=seed).take(50) for seed in (1, 1, 2))
    assert one == same != other


def make_either(kind: str, size: int, shuffle: bool):
    return make_queries(make_rows(size) if kind == "map" else make_stream(size), shuffle=shuffle, seed=5)


@pytest.mark.parametrize("kind", ["map", "stream"])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("taken", [0, 1, 2, 3, 4, 5])  # 3 iterations end an epoch exactly
def test_a_resumed_stream_goes_on_exactly(kind, shuffle, taken):
    whole = make_either(kind, 12, shuffle)
    for _ in range(taken):
        whole.take(4)
    state = json.loads(json.dumps(whole.state_dict()))
    resumed = make_either(kind, 12, shuffle)
    resumed.take(1)  # wherever it was
    resumed.load_state_dict(state)
    for _ in range(5):
        ids = whole.take(4)
        assert resumed.take(4) == ids
        assert [resumed[query_id] for query_id in ids] == [whole[query_id] for query_id in ids]


def test_a_state_does_not_change_afterwards():
    queries = make_either("map", 12, True)
    state = queries.state_dict()
    queries.take(5)
    assert len(state["remaining"]) == 12


def test_a_stream_comes_as_it_is_and_starts_again():
    queries = make_queries(make_stream(5), shuffle=False, seed=0)
    assert [take_rows(queries, 3) for _ in range(4)] == [[0, 1, 2], [3, 4, 0], [1, 2, 3], [4, 0, 1]]
    assert queries.epoch == 2


def test_ids_of_a_stream_are_places_in_it():
    queries = make_queries(make_stream(5), shuffle=False, seed=0)
    assert queries.take(3) == [0, 1, 2]
    assert queries.take(4) == [3, 4, 5, 6]
    assert queries[5]["number"] == 0
    with pytest.raises(KeyError):
        queries[2]  # only the rows of the current iteration are held


def test_a_stream_shorter_than_an_iteration():
    queries = make_queries(make_stream(2), shuffle=False, seed=0)
    assert take_rows(queries, 5) == [0, 1, 0, 1, 0]


def test_a_shuffled_stream_holds_every_row_once_an_epoch():
    queries = make_queries(make_stream(12), shuffle=True, seed=0)
    epochs = [[number for _ in range(3) for number in take_rows(queries, 4)] for _ in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(12))
    assert len(set(map(tuple, epochs))) == 3
    assert list(range(12)) not in epochs


def test_an_empty_stream():
    with pytest.raises(DatasetError, match="the training stream holds no rows"):
        make_queries(make_stream(0), shuffle=False, seed=0).take(1)


def test_a_stream_that_has_become_shorter():
    queries = make_queries(make_stream(8), shuffle=False, seed=0)
    queries.take(6)
    with pytest.raises(DatasetError, match="ends after 3 rows, the checkpoint had read 6"):
        make_queries(make_stream(3), shuffle=False, seed=0).load_state_dict(queries.state_dict())
