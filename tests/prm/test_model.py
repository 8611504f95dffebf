"""Batches: everything once, within the budget, little padding."""

from __future__ import annotations

import numpy as np
import pytest

from bstar_trl.prm.model import pack


@pytest.mark.parametrize("budget", [1, 100, 4096])
def test_batches_hold_everything_within_the_budget(budget):
    lengths = np.random.default_rng(0).integers(1, 200, 500).tolist()
    batches = pack(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(500))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget
    longest = [max(lengths[index] for index in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)
    if budget == 4096:
        cells = sum(len(batch) * most for batch, most in zip(batches, longest, strict=True))
        assert cells < 1.1 * sum(lengths)  # in the order they came it is about twice as much
