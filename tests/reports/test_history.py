"""A run's log, read back by iteration."""

from __future__ import annotations

import pytest

from bstar_trl.reports import iteration_rows, plot_curves
from bstar_trl.reports.columns import evaluation_columns, iteration_columns
from bstar_trl.reports.curves import Panel, load_pyplot, panels_of

TRAINING = {"explore/pass@1": 0.5, "explore/pass@4": 0.75, "balance/temperature": 0.7, "select/samples": 12.0}
LOG = [
    {"step": 0, "eval_greedy_pass@1": 0.1, "eval_pass@1": 0.2, "eval_pass@4": 0.3},
    {"step": 1, "loss": 3.0, "iteration": 0.0, **TRAINING},
    {"step": 2, "loss": 2.0, "iteration": 0.0, **TRAINING},
    {"step": 2, "eval_greedy_pass@1": 0.4, "eval_pass@1": 0.5, "eval_pass@4": 0.6},
    {"step": 4, "loss": 1.0, "iteration": 1.0, **TRAINING, "balance/temperature": 0.9},
    {"step": 4, "train_runtime": 3.0, "train_loss": 2.0, "iteration": 1.0},
]


def test_a_row_holds_the_last_line_and_the_evaluation_after_it():
    start, first, second = iteration_rows(LOG)
    assert start == {"step": 0, "iteration": 0, **{name: LOG[0][name] for name in LOG[0] if name != "step"}}
    assert (first["iteration"], first["loss"], first["eval_greedy_pass@1"]) == (1, 2.0, 0.4)
    assert (second["iteration"], second["balance/temperature"]) == (2, 0.9)
    assert "train_loss" not in second
    assert "eval_pass@1" not in second
    assert iteration_rows([]) == []


def test_columns_are_those_that_were_logged():
    rows = iteration_rows(LOG)
    assert [column.short for column in iteration_columns(rows)] == ["T", "pass@1", "pass@4", "selected"]
    assert [column.short for column in evaluation_columns(rows)] == ["eval greedy", "eval pass@1", "eval pass@4"]
    assert [column.cell(rows[0]) for column in iteration_columns(rows)] == [""] * 4
    assert [column.cell(rows[2]) for column in iteration_columns(rows)] == ["0.90", "0.500", "0.750", "12"]


def test_several_evaluation_datasets():
    line = {"step": 0}
    for name in ("easy", "greedy"):
        line |= {f"eval_{name}_greedy_pass@1": 0.1, f"eval_{name}_pass@1": 0.2, f"eval_{name}_pass@8": 0.3}
    rows = iteration_rows([line])
    columns = evaluation_columns(rows)
    titles = [f"{name} {figure}" for name in ("easy", "greedy") for figure in ("greedy", "pass@1", "pass@8")]
    assert [column.title for column in columns] == titles
    assert [column.cell(rows[0]) for column in columns] == ["0.100", "0.200", "0.300"] * 2
    assert [panel.title for panel in panels_of({"run": rows})] == titles


def test_curves_go_through_the_figures_of_their_runs(tmp_path, monkeypatch):
    pyplot = load_pyplot()
    drawn = []
    monkeypatch.setattr(pyplot, "close", drawn.append)
    rows = iteration_rows(LOG)
    plot_curves({"one": rows, "other": rows[:2]}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    (figure,) = drawn
    axes = {axis.get_title(loc="left"): axis for axis in figure.axes if axis.get_visible()}
    assert list(axes) == [
        *("eval greedy", "eval pass@1", "eval pass@4"),
        *("training queries: pass@1", "training queries: pass@4", "temperature", "selected responses"),
    ]
    for title, points in {
        "eval greedy": ([[0, 0.1], [1, 0.4]], [[0, 0.1], [1, 0.4]]),
        "temperature": ([[1, 0.7], [2, 0.9]], [[1, 0.7]]),
    }.items():
        assert tuple(line.get_xydata().tolist() for line in axes[title].lines) == points
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["one", "other"]
    monkeypatch.undo()
    pyplot.close(figure)
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_curves({"one": []}, tmp_path / "none.png")


def test_panels_name_the_number_of_responses():
    panel = Panel("explore/best_of_K", "best of K", True, "Queries with one right among K; Kim knows.")
    assert panel.filled([4, 16]) == [
        Panel(f"explore/best_of_{k}", f"best of {k}", True, f"Queries with one right among {k}; Kim knows.")
        for k in (4, 16)
    ]
    assert Panel("explore/pass@K-4", "pass@K-4").filled([8]) == [Panel("explore/pass@8-4", "pass@8-4")]
    assert Panel("loss", "loss").filled([4, 16]) == [Panel("loss", "loss")]
    assert panel.filled([]) == []
