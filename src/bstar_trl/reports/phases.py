"""What a run cost, phase by phase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .history import Row


@dataclass(frozen=True)
class Phase:
    """A part of every iteration, summed over them.

    Args:
        title: what it is.
        seconds: that it took; `None` where the log does not say.
        responses: that it was about.
    """

    title: str
    seconds: float | None
    responses: float


# Title, and the figures that hold its seconds and, added up, its responses.
PHASES = (
    ("sampling", "cost/sampling_seconds", ("explore/completions", "balance/extra_completions")),
    (
        "scoring, as far as sampling waited",
        "cost/scoring_seconds",
        ("explore/completions", "balance/extra_completions"),
    ),
    ("the search for the setting, contained in both", "balance/probe_seconds", ("balance/probe_completions",)),
    ("training", "cost/training_seconds", ("select/samples",)),
)


def phases(rows: Sequence[Row]) -> list[Phase]:
    """The phases of a run, in their order; those without any response, such as an absent search, are left out.

    Args:
        rows (`Sequence[dict]`): as of [`iteration_rows`].
    """
    found = []
    for title, seconds, counts in PHASES:
        timed = [row[seconds] for row in rows if seconds in row]
        responses = sum(row.get(name, 0.0) for row in rows for name in counts)
        if responses:
            found.append(Phase(title, sum(timed) if timed else None, responses))
    return found
