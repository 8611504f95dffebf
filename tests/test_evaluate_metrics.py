"""The metrics through the `evaluate` library: same figures, batches too."""

from __future__ import annotations

import importlib
import sys

import pytest

from bstar_trl.errors import ConfigurationError, MissingDependencyError
from bstar_trl.evaluate_metrics import load_metric

CORRECT = [[True, False, True, False], [False, False, False, True]]


@pytest.mark.parametrize(
    ("name", "columns", "options", "expected"),
    [
        ("pass_at_k", {"correct": CORRECT}, {}, 1.0),
        # Two of four drawn: all pairs but one miss nothing in row 1 (5 of 6), and 3 of 6 hit in row 2.
        ("pass_at_k", {"correct": CORRECT}, {"k": 2}, (5 / 6 + 3 / 6) / 2),
        ("pass_at_k_s", {"correct": CORRECT, "response_ids": [[1, 2, 3, 4], [1, 1, 1, 1]]}, {"s": 2}, 0.5),
        ("pass_at_k_s", {"correct": CORRECT, "response_ids": [[1, 2, 1, 4], [1, 1, 1, 1]]}, {"s": 2}, 0.0),
        ("best_of_k", {"correct": CORRECT, "rewards": [[4, 3, 2, 1], [4, 3, 2, 1]]}, {}, 0.5),
        ("reward_at_k_s", {"correct": CORRECT, "rewards": [[4, 1, 3, 2], [4, 3, 2, 1]]}, {"s": 2}, 0.5),
    ],
)
def test_figures_are_those_of_a_count_by_hand(tmp_path, name, columns, options, expected):
    metric = load_metric(name, cache_dir=str(tmp_path))
    assert metric.compute(**columns, **options) == {name: pytest.approx(expected)}
    for row in range(2):
        metric.add_batch(**{column: values[row : row + 1] for column, values in columns.items()})
    assert metric.compute(**options) == {name: pytest.approx(expected)}


def test_unknown_metrics_are_named():
    with pytest.raises(ConfigurationError, match="pass_at_k, pass_at_k_s, best_of_k, reward_at_k_s, got 'bleu'"):
        load_metric("bleu")


def test_without_evaluate_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "evaluate", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "bstar_trl.evaluate_metrics")
    with pytest.raises(MissingDependencyError, match="pip install evaluate"):
        importlib.import_module("bstar_trl.evaluate_metrics")
