"""The figures that sum up an iteration, in a table's order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .history import evaluations


@dataclass(frozen=True)
class Column:
    """A figure in a table.

    Args:
        name: in the logs; `K` stands for the number of responses per query.
        title: what it is.
        short: the same where there is little room.
        form: how it is written.
    """

    name: str
    title: str
    short: str
    form: str = "{:.3f}"

    def with_k(self, k: int) -> Column:
        """The same with the number of responses filled in."""
        name, title, short = (part.replace("@K", f"@{k}") for part in (self.name, self.title, self.short))
        return Column(name, title, short, self.form)

    def cell(self, row: Mapping[str, float]) -> str:
        """The figure of a row, or nothing where it has none."""
        return self.form.format(row[self.name]) if self.name in row else ""


COLUMNS = (
    Column("balance/temperature", "temperature", "T", "{:.2f}"),
    Column("balance/threshold", "threshold", "tau", "{:.2f}"),
    Column("balance/score", "balance score", "balance"),
    Column("explore/pass@1", "pass@1", "pass@1"),
    Column("explore/pass@K", "pass@K", "pass@K"),
    Column("select/lucky_share", "lucky share, estimated", "luck"),
    Column("select/samples", "selected", "selected", "{:.0f}"),
    Column("explore/completions", "sampled", "sampled", "{:.0f}"),
)


def num_responses(names: Iterable[str]) -> int:
    """K, by the names of the figures that are about K responses to each query; 1 where there is none."""
    return max((int(match[1]) for name in names if (match := re.fullmatch(r"explore/pass@(\d+)", name))), default=1)


def iteration_columns(rows: Sequence[Mapping[str, float]]) -> list[Column]:
    """Those that these rows have figures for, K filled in."""
    names = {name for row in rows for name in row}
    k = num_responses(names)
    filled = [item.with_k(k) for item in COLUMNS if k > 1 or "@K" not in item.name]
    return [item for item in filled if item.name in names]


def evaluation_columns(rows: Sequence[Mapping[str, float]]) -> list[Column]:
    """Greedy and sampled right answers of each dataset that these rows have an evaluation of."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    found = []
    for prefix in dict.fromkeys(prefix for row in rows for prefix in evaluations(row)):
        label = prefix.removeprefix("eval_")
        found.append(Column(f"{prefix}_greedy_pass@1", f"{label} greedy", f"{label} greedy"))
        for name in names:
            if re.fullmatch(re.escape(prefix) + r"_pass@\d+", name):
                title = f"{label} {name.removeprefix(prefix + '_')}"
                found.append(Column(name, title, title))
    return found
