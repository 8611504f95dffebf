"""The store of an iteration's responses: every process holds the columns; texts and tokens stay where they were
sampled."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..records import Completion, Rollouts, concatenate

OWNER_SHIFT = 40  # a row number holds the process that sampled the response, then its place there


class RolloutStore:
    """Keeps the responses that this process sampled, and reads any process's.

    Args:
        process_index (`int`): this process.
        gather: collects one object from each process: `gather([mine]) -> [object of process 0, of process 1, ...]`.
    """

    def __init__(self, process_index: int, gather: Callable[[list[Any]], list[Any]]):
        self.process_index = process_index
        self.gather = gather
        self._completions: list[Completion] = []

    @property
    def size(self) -> int:
        """Responses that this process has sampled."""
        return len(self._completions)

    def locate(self, rows: np.ndarray) -> tuple[list[int], list[int]]:
        """Which process sampled each of these rows, and where it keeps it."""
        return (rows >> OWNER_SHIFT).tolist(), (rows & ((1 << OWNER_SHIFT) - 1)).tolist()

    def add(
        self,
        completions: Sequence[Completion],
        *,
        rewards_R: np.ndarray,
        values_RF: np.ndarray,
        reasons_R: np.ndarray,
    ) -> Rollouts:
        """Keep this process's responses, four bytes a token; returns the columns of all processes, in their order.

        Whether a response is correct is not known here: it may depend on the other responses of its query.
        A collective: every process calls it, if only with no responses.
        """
        first = len(self._completions) + (self.process_index << OWNER_SHIFT)
        self._completions += [replace(item, token_ids=array("i", item.token_ids)) for item in completions]
        unknown_R = np.zeros(len(completions), dtype=bool)
        zeros_R = np.zeros(len(completions))
        mine = Rollouts(
            query_ids_R=np.array([item.query_id for item in completions], dtype=np.int64),
            temperatures_R=np.array([item.temperature for item in completions], dtype=np.float64),
            rewards_R=rewards_R,
            correct_R=unknown_R,
            judged_R=unknown_R,
            step_R=zeros_R,
            chance_R=zeros_R,
            ended_R=np.array([item.finish_reason == "stop" for item in completions], dtype=bool),
            lengths_R=np.array([len(item.token_ids) for item in completions], dtype=np.int32),
            text_ids_R=np.array([text_id(item.text) for item in completions], dtype=np.uint64),
            values_RF=values_RF,
            reasons_R=reasons_R,
            rows_R=np.arange(first, first + len(completions)),
            reader=_NO_READER,
        )
        return replace(concatenate(self.gather([mine])), reader=self)

    def mine(self, rows: np.ndarray) -> dict[int, Completion]:
        """Those of these rows that this process sampled, by their position in `rows`."""
        located = enumerate(zip(*self.locate(rows), strict=True))
        return {index: self._completions[place] for index, (owner, place) in located if owner == self.process_index}

    def read(self, rows: np.ndarray) -> list[Completion]:
        """The completions of these rows, whoever sampled them. A collective."""
        located = list(zip(*self.locate(rows), strict=True))
        mine = [self._completions[place] for owner, place in located if owner == self.process_index]
        parts = self.gather([[replace(item, token_ids=list(item.token_ids)) for item in mine]])
        iterators = [iter(part) for part in parts]
        return [next(iterators[owner]) for owner, _ in located]


class _NoReader:
    def read(self, rows: np.ndarray) -> list[Completion]:
        raise RuntimeError("texts cannot be read until the rollouts are gathered")


_NO_READER = _NoReader()


def text_id(text: str) -> int:
    """64 bits that stand for a text; trailing white space does not count."""
    encoded = text.rstrip().encode("utf-8", errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little")
