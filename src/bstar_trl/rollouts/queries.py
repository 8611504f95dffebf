"""The stream of queries: which rows of the training dataset an iteration explores, in a seeded order."""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset

from ..errors import DatasetError


class MapQueries:
    """Rows of a map-style dataset, epoch by epoch, each epoch in its own seeded order. A query's id is its row.

    An iteration that runs over the end of an epoch is filled from the next epoch's order, never with a row that it
    already holds.
    """

    def __init__(self, dataset: Dataset, *, shuffle: bool, seed: int):
        self.dataset = dataset
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self._remaining = self._order(0)

    def take(self, n: int) -> list[int]:
        """The next `n` query ids, all different; `n` is at most the dataset's size."""
        taken, self._remaining = self._remaining[:n], self._remaining[n:]
        if len(taken) < n:
            self.epoch += 1
            order = self._order(self.epoch)
            held = set(taken)
            fill = [query_id for query_id in order if query_id not in held][: n - len(taken)]
            taken += fill
            used = set(fill)
            self._remaining = [query_id for query_id in order if query_id not in used]
        return taken

    def __getitem__(self, query_id: int) -> dict[str, Any]:
        return self.dataset[query_id]

    def state_dict(self) -> dict[str, Any]:
        """What continues the stream in another process."""
        return {"epoch": self.epoch, "remaining": list(self._remaining)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        largest = max(state["remaining"], default=-1)
        if largest >= len(self.dataset):
            raise DatasetError(f"the run to continue still has row {largest} to explore, got {len(self.dataset)} rows")
        self.epoch, self._remaining = state["epoch"], list(state["remaining"])

    def _order(self, epoch: int) -> list[int]:
        size = len(self.dataset)
        if not self.shuffle:
            return list(range(size))
        return np.random.default_rng([self.seed, epoch]).permutation(size).tolist()


class StreamQueries:
    """Rows of a stream as they come; a stream that ends starts again. A query's id is its place in the whole stream.

    Only the rows of the current `take` are held. `shuffle` is the buffered one of `datasets`, as TRL's. A resumed
    stream reads the rows of its epoch once more up to where it was: the state that `datasets` offers would lose the
    rows in a shuffle buffer.
    """

    def __init__(self, dataset: IterableDataset, *, shuffle: bool, seed: int):
        self.dataset = dataset.shuffle(seed=seed) if shuffle else dataset
        self._next_id = 0
        self._rows: dict[int, dict[str, Any]] = {}
        self._start(0)

    def take(self, n: int) -> list[int]:
        """Buffer the next `n` rows and forget those before."""
        self._rows = {}
        while len(self._rows) < n:
            self._rows[self._next_id] = self._next_row()
            self._next_id += 1
        return list(self._rows)

    def __getitem__(self, query_id: int) -> dict[str, Any]:
        return self._rows[query_id]

    def state_dict(self) -> dict[str, Any]:
        """What continues the stream in another process."""
        return {"epoch": self.epoch, "position": self._position, "next_id": self._next_id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        self._next_id = state["next_id"]
        self._start(state["epoch"])
        for _ in range(state["position"]):
            if self._read() is None:
                raise DatasetError(
                    f"the training stream ends after {self._position} rows, the checkpoint had read "
                    f"{state['position']}"
                )

    def _next_row(self) -> dict[str, Any]:
        row = self._read()
        if row is None:
            self._start(self.epoch + 1)
            row = self._read()
        if row is None:
            raise DatasetError(f"the training stream holds no rows (epoch {self.epoch})")
        return row

    def _start(self, epoch: int) -> None:
        self.epoch = epoch
        self._position = 0  # rows read of this epoch
        self.dataset.set_epoch(epoch)
        self._iterator = iter(self.dataset)

    def _read(self) -> dict[str, Any] | None:
        row = next(self._iterator, None)
        self._position += row is not None
        return row


Queries = MapQueries | StreamQueries


def make_queries(dataset: Dataset | IterableDataset, *, shuffle: bool, seed: int) -> Queries:
    """The stream of queries of either kind of dataset."""
    kind = StreamQueries if isinstance(dataset, IterableDataset) else MapQueries
    return kind(dataset, shuffle=shuffle, seed=seed)
