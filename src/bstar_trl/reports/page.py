"""The report of one or several runs: a page that needs no network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from .columns import Column, evaluation_columns, iteration_columns
from .curves import Panel, ks_of
from .phases import phases
from .run_files import RunFiles
from .svg import Line, heat_map, histogram, line_chart, marker

TEMPLATE = "page.html.jinja"


SECTIONS: dict[str, tuple[Panel, ...]] = {
    "Setting": (
        Panel("balance/temperature", "temperature"),
        Panel("balance/threshold", "reward threshold"),
        Panel("balance/score", "balance score", True, "Enough right responses, and few wrong ones among them."),
    ),
    "Exploration: can the model still find right answers?": (
        Panel("explore/pass@1", "pass@1", True, "Share of right responses."),
        Panel("explore/pass@K", "pass@K", True, "Queries with a right response among K."),
        Panel("explore/pass@K-4", "pass@K-4", True, "Queries with four distinct right responses among K."),
        Panel("explore/unique_correct", "different right responses", False, "A mean over the queries."),
        Panel("explore/solved_never", "never solved", True, "Queries that none of their responses solves."),
        Panel("explore/solved_always", "always solved", True, "Queries that all of their responses solve."),
        Panel("explore/distinct", "distinct responses", True, "Falls when the model says the same again and again."),
        Panel("explore/distinct_equations", "distinct equations"),
        Panel("explore/truncated", "cut off", True, "Responses that did not end within max_completion_length."),
    ),
    "Exploitation: does the reward pick the right ones?": (
        Panel("explore/best_of_K", "best of K", True, "Queries whose response with the highest reward is right."),
        Panel("explore/reward@K-4", "reward@K-4", True, "Right ones among the four highest rewards."),
        Panel("explore/agreement", "agreement of scorer and verifier", True, "1/2: the scorer knows nothing."),
        Panel("select/correct", "right among the selected", True),
        Panel("select/lucky_share", "lucky share, estimated", True, "Right answers at the end of wrong reasoning."),
    ),
    "Selection": (
        Panel("select/samples", "selected responses"),
        Panel("select/available", "could have been selected"),
        Panel("select/queries", "queries with a selected response", True),
    ),
    "Cost": (
        Panel("explore/completions", "responses to select from"),
        Panel("balance/saved_completions", "responses saved by rounds"),
        Panel("balance/extra_completions", "responses thrown away"),
        Panel("cost/sampling_seconds", "seconds of sampling"),
        Panel("cost/scoring_seconds", "seconds of scoring", False, "That sampling waited for."),
        Panel("cost/training_seconds", "seconds of training"),
        Panel("balance/probe_seconds", "seconds of the search", False, "Its sampling and scoring included."),
        Panel("num_tokens", "tokens so far"),
    ),
    "Training": (Panel("loss", "loss"), Panel("grad_norm", "gradient norm"), Panel("learning_rate", "learning rate")),
}


def render(runs: Sequence[RunFiles]) -> str:
    """A page about these runs, side by side.

    Args:
        runs (`Sequence[RunFiles]`): at least one.

    Returns:
        `str`: HTML, with its style and its charts in it.
    """
    labels = _labels(runs)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["without_links"] = lambda text: re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", text)  # of Markdown
    return environment.get_template(TEMPLATE).render(
        title=", ".join(labels),
        runs=list(zip(labels, runs, strict=True)),
        marks=[_mark(place) for place in range(len(runs))],
        facts=list(dict.fromkeys(name for run in runs for name in run.facts)),
        sections=_sections(labels, runs),
        tables=[_table(run) for run in runs],
        costs=[phases(run.rows) for run in runs],
        details=[[_detailed(entry) for entry in run.details] for run in runs],
    )


def _labels(runs: Sequence[RunFiles]) -> list[str]:
    """The runs' names; equal ones are numbered."""
    names = [run.name for run in runs]
    return [
        name if names.count(name) == 1 else f"{name} ({names[:place].count(name) + 1})"
        for place, name in enumerate(names)
    ]


def _sections(labels: Sequence[str], runs: Sequence[RunFiles]) -> list[dict[str, Any]]:
    rows = [row for run in runs for row in run.rows]
    evaluations = tuple(Panel(item.name, item.title, is_share=True) for item in evaluation_columns(rows))
    found = []
    for title, charts in {"Evaluation, on held-out rows": evaluations, **SECTIONS}.items():
        drawn = [part for chart in charts for part in _drawn(chart, labels, runs)]
        if drawn:
            found.append({"title": title, "charts": drawn})
    return found


def _drawn(panel: Panel, labels: Sequence[str], runs: Sequence[RunFiles]) -> list[dict[str, str]]:
    """The panel, if any run has its figure; one for each K, if runs differ in it."""
    found = []
    for name, title, is_share, note in panel.filled(ks_of(row for run in runs for row in run.rows)):
        lines = [
            Line(label, [(row["iteration"], row[name]) for row in run.rows if name in row])
            for label, run in zip(labels, runs, strict=True)
        ]
        if any(line.points for line in lines):
            found.append(
                {"name": name, "title": title, "note": note, "svg": line_chart(title, lines, is_share=is_share)}
            )
    return found


def _table(run: RunFiles) -> dict[str, Any]:
    columns: list[Column] = [*iteration_columns(run.rows), *evaluation_columns(run.rows)]
    lines = [
        ["start" if row["iteration"] == 0 else f"{row['iteration']:.0f}", *(column.cell(row) for column in columns)]
        for row in run.rows
    ]
    return {"titles": ["iteration", *(column.title for column in columns)], "lines": lines}


def _detailed(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The pictures of one iteration, and its responses."""
    pictures = []
    if seen := entry.get("score_map"):
        rows, columns = seen["temperatures"], seen["thresholds"]
        svg = heat_map(
            "balance score", rows, columns, seen["scores"], chosen=(entry["temperature"], entry["threshold"])
        )
        few, many = min(seen["num_queries"]), max(seen["num_queries"])
        counted = f"{few}" if few == many else f"{few} to {many}"
        note = (
            f"By temperature and threshold, on {counted} queries each. Framed: in force; dots: the best of each row."
        )
        pictures.append({"title": "Balance score", "note": note, "svg": svg})
    rewards = entry["rewards"]
    layers = [("correct", rewards["correct"]), ("wrong", rewards["wrong"])]
    svg = histogram("rewards", rewards["edges"], layers, label="reward", line=entry["threshold"])
    note = "Of the responses to select from: correct ones, and upon them wrong ones. The line is the threshold."
    pictures.append({"title": "Rewards", "note": note, "svg": svg})
    for name, title, what in (
        ("unique_correct", "Different right responses", "Queries by their different right responses among K."),
        ("selected", "Selected responses", "Queries by their selected responses."),
    ):
        if counts := entry.get(name):
            edges = list(range(len(counts) + 1))
            svg = histogram(title, edges, [("queries", counts)], label="responses of a query", whole=True)
            pictures.append({"title": title, "note": what, "svg": svg})
    responses = sorted(entry["responses"], key=lambda item: not item["selected"])
    return {"iteration": entry["iteration"], "pictures": pictures, "responses": responses}


def _mark(place: int) -> str:
    tag = marker(place, 8, 7)
    return f'<svg class="key" viewBox="0 0 16 14" aria-hidden="true">{tag}</{tag[1:].split()[0]}></svg>'
