"""The history of a run, an iteration a row, from the trainer's log."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

Row = dict[str, float]


def iteration_rows(log_history: Sequence[Mapping[str, Any]]) -> list[Row]:
    """What a run logged, by iteration.

    Args:
        log_history (`Sequence[dict]`): `trainer.state.log_history`, or the same from a `trainer_state.json`.

    Returns:
        `list[dict[str, float]]`: a row per iteration, in order. `iteration` counts from 1; the other figures stand
        under the names of the logs, as of the iteration's last line of training and the evaluations since it. A first
        row with `iteration` 0 holds what was evaluated before the training.
    """
    rows: dict[int, Row] = {}
    current = 0
    for line in log_history:
        if "iteration" in line and "loss" in line:
            current = int(line["iteration"]) + 1
        elif not any(name.startswith("eval_") for name in line):
            continue  # the last line of a run sums it up
        row = rows.setdefault(current, {})
        row |= {name: value for name, value in line.items() if isinstance(value, (int, float))}
        row["iteration"] = current
    return [rows[number] for number in sorted(rows)]


def evaluations(row: Mapping[str, float]) -> list[str]:
    """The datasets that a row has evaluations of, as its keys begin: `eval`, or `eval_<name>` for each of several."""
    prefixes = [match[1] for name in row if (match := re.fullmatch(r"(eval(?:_.+)?)_greedy_pass@1", name))]
    return [prefix for prefix in prefixes if f"{prefix}_pass@1" in row]
