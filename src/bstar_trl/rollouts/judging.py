"""Which responses are correct: what the verifiers' values mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from ..errors import DatasetError, RewardError
from ..records import Rollouts

CORRECT_AT = 1.0  # of a verifier that does not say
COLUMN = "verifier"  # of the dataset: which of several verifiers judges a row


@dataclass(frozen=True)
class Verifiers:
    """The reward functions that say *correct or not*: one, or several of which each judges rows of its own.

    Args:
        indices (`tuple[int, ...]`): their places among the reward functions.
        names (`tuple[str, ...]`): what logs call them.
        limits (`tuple[float | None, ...]`): the smallest value of a correct response. `None`: correct is what lies
            above the mean of its query's responses, since the value of a reward model says nothing by itself.
    """

    indices: tuple[int, ...]
    names: tuple[str, ...]
    limits: tuple[float | None, ...]

    @classmethod
    def of(
        cls,
        functions: Sequence[Any],
        names: Sequence[str],
        indices: Sequence[int],
        correct_at: float | Mapping[str, float] | None,
    ) -> Verifiers:
        """The verifiers among these functions; `correct_at` is the limit of all, or of some by name.

        A function without the attribute `correct_at` has the limit 1, but for a reward model that is the only reward.
        """
        alone = len(functions) == 1
        limits = []
        for index in indices:
            given = correct_at.get(names[index]) if isinstance(correct_at, Mapping) else correct_at
            limit = getattr(functions[index], "correct_at", None) if given is None else given
            is_relative = limit is None and alone and isinstance(functions[index], str | nn.Module)
            limits.append(None if is_relative else CORRECT_AT if limit is None else float(limit))
        return cls(tuple(indices), tuple(names[index] for index in indices), tuple(limits))

    @property
    def are_several(self) -> bool:
        """Whether rows have different judges."""
        return len(self.indices) > 1

    @property
    def are_relative(self) -> bool:
        """Whether *correct* only compares the responses of a query, so that shares of correct ones mean nothing."""
        return None in self.limits

    def of_row(self, row: Mapping[str, Any]) -> int | None:
        """The place of the verifier that a dataset row names; `None`: it names none, so each verifier is asked.

        Raises:
            DatasetError: it names something else.
        """
        name = row.get(COLUMN) if self.are_several else None
        if name is None:
            return None
        if name not in self.names:
            raise DatasetError(
                f"the column '{COLUMN}' must hold the name of one of the verifiers ({', '.join(self.names)}) or None, "
                f"got {name!r}"
            )
        return self.indices[self.names.index(name)]

    def judges(self, values_RF: np.ndarray, query_ids_R: np.ndarray) -> np.ndarray:
        """Who judged each response.

        Args:
            values_RF (`float64`): the reward functions' values, NaN standing for `None`.
            query_ids_R (`int64`): named by the error.

        Returns:
            `int64` (R,): a place among `indices`; -1 where no verifier gave a value.

        Raises:
            RewardError: two verifiers gave a value.
        """
        given_RV = ~np.isnan(values_RF[:, self.indices])
        twice_R = given_RV.sum(axis=1) > 1
        if twice_R.any():
            row = int(twice_R.argmax())
            names = " and ".join(repr(self.names[place]) for place in np.flatnonzero(given_RV[row]))
            raise RewardError(
                f"the verifiers {names} both judge query {query_ids_R[row]}: let a column '{COLUMN}' of the dataset "
                "name the judge of each row, or let each verifier return None for the rows of others"
            )
        return np.where(given_RV.any(axis=1), given_RV.argmax(axis=1), -1)

    def correct(self, values_RF: np.ndarray, query_ids_R: np.ndarray) -> np.ndarray:
        """Where the judge's own, unweighted value says *correct*: `bool` (R,). The one place that decides it.

        Arguments and errors as of [`judges`].
        """
        judges_R = self.judges(values_RF, query_ids_R)
        correct_R = np.zeros(len(values_RF), dtype=bool)
        for place, (index, limit) in enumerate(zip(self.indices, self.limits, strict=True)):
            mine_R = judges_R == place
            values_R = values_RF[mine_R, index]
            limits_R = _means(values_R, query_ids_R[mine_R]) if limit is None else limit
            correct_R[mine_R] = values_R > limits_R if limit is None else values_R >= limits_R
        return correct_R

    def steps_if_correct(self, values_RF: np.ndarray, query_ids_R: np.ndarray, weights_F: np.ndarray) -> np.ndarray:
        """What each total would gain had the judge said *correct*: weight times (limit - value).

        0 where the response is correct or unjudged, or where the judge only compares. Arguments and errors as of
        [`judges`]; `weights_F` are TRL's `reward_weights`.

        Returns:
            `float64` (R,), at least 0.
        """
        judges_R = self.judges(values_RF, query_ids_R)
        steps_R = np.zeros(len(values_RF))
        for place, (index, limit) in enumerate(zip(self.indices, self.limits, strict=True)):
            if limit is not None:
                mine_R = judges_R == place
                steps_R[mine_R] = np.maximum(weights_F[index] * (limit - values_RF[mine_R, index]), 0.0)
        return steps_R

    def split(self, rollouts: Rollouts) -> dict[str, Rollouts]:
        """Of several verifiers: the responses to the queries that each judges, by its name."""
        if not self.are_several:
            return {}
        judges_R = self.judges(rollouts.values_RF, rollouts.query_ids_R)
        queries = [np.unique(rollouts.query_ids_R[judges_R == place]) for place in range(len(self.indices))]
        return {
            name: rollouts.take(np.isin(rollouts.query_ids_R, ids))
            for name, ids in zip(self.names, queries, strict=True)
            if len(ids)
        }

    def candidates(self, rollouts: Rollouts, threshold: float) -> np.ndarray:
        """Which responses may be trained on: the selectable ones of every verifier that found a correct one.

        Where a verifier calls nothing correct that exceeds the threshold, other rewards must not decide alone.

        Returns:
            `bool` (N, K), as the grids of the rollouts.
        """
        grids = rollouts.grids
        hopeful_NK = grids.selectable_NK & grids.correct_NK & (grids.rewards_NK > threshold)
        judges_NK = self.judges(rollouts.values_RF, rollouts.query_ids_R)[grids.index_NK]
        return grids.selectable_NK & np.isin(judges_NK, np.unique(judges_NK[hopeful_NK]))

    def explained(self, values_RF: np.ndarray) -> str:
        """The range of each verifier's values, beside its limit; for messages."""
        parts = []
        for index, name, limit in zip(self.indices, self.names, self.limits, strict=True):
            values = values_RF[:, index]
            values = values[~np.isnan(values)]
            if len(values):
                correct = "above the mean of its query's responses" if limit is None else f"at least {limit:g}"
                low, high = values.min(), values.max()
                lie = f"are all {low:g}" if low == high else f"lie between {low:g} and {high:g}"
                parts.append(f"the values of '{name}' {lie}, and correct is {correct} (`correct_at`)")
        return "; ".join(parts)


def _means(values_R: np.ndarray, query_ids_R: np.ndarray) -> np.ndarray:
    """The mean of each response's query."""
    _, inverse = np.unique(query_ids_R, return_inverse=True)
    means_N = np.bincount(inverse, weights=values_R) / np.maximum(np.bincount(inverse), 1)
    # Equal values have to equal their mean, which the division may miss by a rounding.
    low_N = np.full(len(means_N), math.inf)
    np.minimum.at(low_N, inverse, values_R)
    high_N = np.full(len(means_N), -math.inf)
    np.maximum.at(high_N, inverse, values_R)
    return np.clip(means_N, low_N, high_N)[inverse]
