"""What a run leaves in its folder, and the page that is made of it: read back, and opened in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import make_trainer
from PIL import Image
from test_history import LOG

from bstar_trl import BalanceCallback
from bstar_trl.balance import mean_balance_score
from bstar_trl.cli import main
from bstar_trl.errors import ConfigurationError
from bstar_trl.reports.page import render
from bstar_trl.reports.phases import phases
from bstar_trl.reports.run_files import RunFiles, RunRecorder, read_run
from bstar_trl.reports.svg import Line, line_chart, nice_ticks, whole_ticks

DETAILS = {
    "temperature": 0.8,
    "threshold": 0.5,
    "score_map": {
        "temperatures": [0.5, 0.8],
        "thresholds": [0.0, 0.5, 1.0],
        "scores": [[0.1, 0.2, 0.0], [0.3, 0.4, 0.0]],
        "num_queries": [3, 5],
    },
    "rewards": {"edges": [0.0, 0.5, 1.0], "correct": [1, 7], "wrong": [9, 0]},
    "unique_correct": [3, 0, 2],
    "selected": [4, 1],
    "responses": [
        {
            "prompt": "1+1=",
            "text": text,
            "reward": reward,
            "correct": selected,
            "reason": None,
            "temperature": 0.8,
            "selected": selected,
        }
        for text, reward, selected in (("<3>", 0.0, False), ("2", 1.0, True))
    ],
}
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def state_of(lines: list[dict]) -> SimpleNamespace:
    return SimpleNamespace(log_history=list(lines), is_world_process_zero=True)


def leave_run(folder, lines=LOG, facts=None):
    recorder = RunRecorder(folder, lambda: 2)
    recorder.begin({"Base": "a | model <b>"} if facts is None else facts)
    state = state_of([])
    recorder.on_train_begin(None, state, None)
    for line in lines:
        state.log_history.append(line)
        recorder.on_log(None, state, None)
    for number in range(2) if lines else ():
        recorder.add(number, DETAILS)
    return folder


class Page(HTMLParser):
    """Cells of the tables, links to elsewhere, and what the points say."""

    def __init__(self, text: str):
        super().__init__()
        self.cells: list[str] = []
        self.links: list[str] = []
        self.points: list[str] = []
        self._inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self._inside.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset")]
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data):
        if {"td", "th"} & set(self._inside):
            self.cells[-1] += data
        elif self._inside[-1:] == ["title"] and "svg" in self._inside:
            self.points.append(data)


def test_a_run_is_read_back_line_by_line(tmp_path):
    found = read_run(leave_run(tmp_path / "out"))
    assert [row["iteration"] for row in found.rows] == [0, 1, 2]
    assert found.rows[1]["eval_greedy_pass@1"] == 0.4
    assert (found.name, found.finished, found.seconds, found.missing) == ("out", True, 3.0, ())


def test_a_resumed_run_drops_what_it_logs_again(tmp_path):
    leave_run(tmp_path / "out", LOG[:5])  # killed after its second iteration began
    recorder, state = RunRecorder(tmp_path / "out", lambda: 1), state_of(LOG[:3])  # the checkpoint knows of the first
    recorder.on_train_begin(None, state, None)
    state.log_history.append(LOG[4] | {"balance/temperature": 0.5})
    recorder.on_log(None, state, None)
    recorder.on_evaluate(None, state, None)  # nothing new
    assert read_run(tmp_path / "out").rows[-1]["balance/temperature"] == 0.5
    assert len((tmp_path / "out/run_log/log.jsonl").read_text().splitlines()) == 4
    assert [entry["iteration"] for entry in read_run(tmp_path / "out").details] == [1]
    recorder.add(1, DETAILS)
    assert [entry["iteration"] for entry in read_run(tmp_path / "out").details] == [1, 2]


def test_a_run_that_was_killed_while_it_wrote(tmp_path):
    log = leave_run(tmp_path / "out", LOG[:5]) / "run_log" / "log.jsonl"
    log.write_text(log.read_text()[:-20])
    found = read_run(tmp_path / "out")
    assert [row["iteration"] for row in found.rows] == [0, 1]
    assert not found.finished
    log.write_text("torn\n" + log.read_text())
    with pytest.raises(ConfigurationError, match=r"log\.jsonl, line 1, is no JSON"):
        read_run(tmp_path / "out")


def test_infinite_figures_are_left_out(tmp_path):
    leave_run(tmp_path / "out", [LOG[1] | {"grad_norm": float("nan"), "loss": 3.0}])
    assert "grad_norm" not in read_run(tmp_path / "out").rows[0]


def test_runs_without_a_log_have_their_checkpoints(tmp_path):
    for step, lines in ((8, LOG[:4]), (10, LOG)):
        (tmp_path / f"out/checkpoint-{step}").mkdir(parents=True)
        (tmp_path / f"out/checkpoint-{step}/trainer_state.json").write_text(json.dumps({"log_history": lines}))
    found = read_run(tmp_path / "out")
    assert len(found.rows) == 3
    assert "what came after checkpoint-10" in found.missing[0]
    assert len(read_run(tmp_path / "out/checkpoint-8").rows) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match="empty holds no run"):
        read_run(tmp_path / "empty")
    with pytest.raises(ConfigurationError, match="there is no folder"):
        read_run(tmp_path / "nothing")
    assert read_run(leave_run(tmp_path / "begun", [])).missing == ("figures: no iteration has ended yet",)


def test_the_page_needs_no_network_and_says_every_figure(tmp_path):
    runs = [read_run(leave_run(tmp_path / name)) for name in ("one", "other")]
    text = render(runs)
    page = Page(text)
    assert page.links == []
    assert not re.search(r"url\(|@import|<script", text)
    assert "a | model <b>" in page.cells  # escaped
    assert "one, iteration 1: 0.7" in page.points
    assert "other, iteration 2: 0.9" in page.points
    assert "one, iteration 0: 0.1" in page.points
    for row in runs[0].rows[1:]:
        assert f"{row['balance/temperature']:.2f}" in page.cells
    assert "Missing" not in text
    assert [run.name for run in runs] == re.findall(r"<b>(\w+)</b>:", text)


def test_the_page_shows_each_iteration(tmp_path):
    text = render([read_run(leave_run(tmp_path / "one"))])
    page = Page(text)
    assert text.count("<summary>Iteration") == 2
    assert text.count("<details open>") == 1  # the last
    for told in ("T = 0.8, tau = 0.5: 0.400", "T = 0.5, tau = 1: 0.000", "correct, 0.5 to 1: 7", "wrong, 0 to 0.5: 9"):
        assert page.points.count(told) == 2
    assert page.points.count("queries, 2: 2") == 2  # queries with two different right responses
    assert [cell for cell in page.cells if cell in ("2", "<3>")][-2:] == ["2", "<3>"]  # selected first; escaped
    assert len(re.findall(r'class="cell chosen" x="([\d.]+)"', text)) == 2
    bars = re.findall(r'class="bar([01])" x="[\d.]+" y="([\d.]+)" width="[\d.]+" height="([\d.]+)"', text)[:3]
    unit = float(bars[0][2])  # one correct response with a reward below 0.5
    assert [round(float(height) / unit) for _, _, height in bars] == [1, 7, 9]
    assert float(bars[2][1]) + float(bars[2][2]) == pytest.approx(float(bars[0][1]), abs=0.11)  # upon each other


def test_the_page_sums_up_the_cost_of_each_phase():
    row = {"explore/completions": 1000.0, "balance/extra_completions": 20.0, "select/samples": 40.0}
    row |= {"cost/sampling_seconds": 2.5, "cost/scoring_seconds": 0.25, "cost/training_seconds": 10.0}
    found = phases([{"iteration": 0, "eval_pass@1": 0.5}, row, row | {"balance/probe_completions": 7.0}])
    assert [(phase.seconds, phase.responses) for phase in found] == [(5, 2040), (0.5, 2040), (None, 7), (20, 80)]
    run = RunFiles("one", {}, [row | {"iteration": 1}], [], 0.0, False, ())
    cells = Page(render([run])).cells
    assert [cell for cell in cells[cells.index("phase") :] if re.search(r"\d", cell)] == [
        *("2.5", "1,020"),
        *("0.2", "1,020"),
        *("10.0", "40"),
    ]


def test_runs_of_one_name_are_numbered(tmp_path):
    runs = [read_run(leave_run(tmp_path / name / "out")) for name in "ab"]
    assert re.findall(r"<b>(out[^<]*)</b>:", render(runs)) == ["out (1)", "out (2)"]


def test_points_stand_where_their_figures_are():
    svg = line_chart("x", [Line("a", [(1, 0.0), (3, 1.0)]), Line("b", [])], is_share=True)
    (path,) = re.findall(r'class="run0" points="([^"]+)"', svg)
    (left, bottom), (right, top) = (map(float, point.split(",")) for point in path.split())
    assert left < right
    assert top < bottom
    grid = sorted(float(y) for y in re.findall(r'class="grid"[^>]*y1="([\d.]+)"', svg))
    assert (top, bottom) == (grid[0], grid[-1])


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.25, 0.5, 0.75, 1]),
        (0.9, 1.2, [0.9, 1.0, 1.1, 1.2]),
        (3, 3, [0, 2, 4, 6]),
        (-1, -1, [-2, -1.5, -1, -0.5, 0]),
        (0, 0, [0, 0.25, 0.5, 0.75, 1]),
        (-3, 1234, [-500, 0, 500, 1000, 1500]),
    ],
)
def test_ticks_are_round_and_reach_around(low, high, ticks):
    found = nice_ticks(low, high)
    assert found == pytest.approx(ticks)


@pytest.mark.parametrize("seed", range(20))
def test_ticks_of_any_numbers(seed):
    rng = np.random.default_rng(seed)
    low, high = sorted(rng.normal(0, 10.0 ** rng.integers(-6, 7), 2))
    found = nice_ticks(low, high)
    assert found[0] <= low + 1e-9 * (high - low)
    assert found[-1] >= high - 1e-9 * (high - low)
    assert 2 <= len(found) <= 8
    assert whole_ticks(0, 20) == [0, 3, 6, 9, 12, 15, 18]


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    leave_run(tmp_path / "out")
    assert main(["report", "out", "--png", "curves.png"]) == 0
    assert capsys.readouterr().out.splitlines() == ["Report: out/report.html", "Curves: curves.png"]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert main(["report", "out", "--output-file", "there/page.html"]) == 0
    assert (tmp_path / "there/page.html").exists()
    assert main(["report", "nothing"]) == 2
    assert "there is no folder nothing" in capsys.readouterr().err


def test_a_training_leaves_its_log(tmp_path, model_path):
    trainer = make_trainer(tmp_path, model_path, logging_steps=1)
    trainer.train()
    found = read_run(tmp_path)
    assert found.finished
    assert found.facts["Rewards"]
    check_details(trainer, found.details)
    logged = {line["step"]: line for line in trainer.state.log_history if "loss" in line}
    for row in found.rows:
        line = logged[row["step"]]
        assert {name: row[name] for name in line if name != "iteration"} == {
            name: value for name, value in line.items() if name != "iteration"
        }
    longer = [row | {"iteration": number} for number, row in enumerate(found.rows * 20, start=1)][:20]
    assert len(render([found.__class__(**(vars(found) | {"rows": longer}))])) < 3_000_000


def check_details(trainer, details):
    assert [entry["iteration"] for entry in details] == list(range(1, len(details) + 1))
    logged = {line["iteration"]: line for line in trainer.state.log_history if "loss" in line}
    for entry in details:
        line = logged[entry["iteration"] - 1]
        assert entry["temperature"] == line["balance/temperature"]
        rewards, selected, unique = entry["rewards"], entry["selected"], entry["unique_correct"]
        assert sum(rewards["correct"]) + sum(rewards["wrong"]) == line["explore/completions"]
        assert sum(number * queries for number, queries in enumerate(selected)) == line["select/samples"]
        mean = sum(number * queries for number, queries in enumerate(unique)) / sum(unique)
        assert mean == pytest.approx(line["explore/unique_correct"])
        assert {item["selected"] for item in entry["responses"]} <= {True, False}
        for item in entry["responses"]:
            assert item["correct"] == (item["reward"] >= 1)  # of the one verifier
            assert item["prompt"] in trainer.train_dataset["prompt"][:]


def test_a_map_of_the_score_by_brute_force(tmp_path, model_path):
    trainer = make_trainer(tmp_path, model_path, callbacks=[BalanceCallback([0.7, 1.2])], max_steps=9)
    seen = []
    begin = trainer.balance.begin
    trainer.balance.begin = lambda *given: seen.append(begin(*given)) or seen[-1]
    trainer.train()
    (entry,) = read_run(tmp_path).details
    found = entry["score_map"]
    assert found["temperatures"] == [0.7, 1.2]
    assert len(found["thresholds"]) == 21
    rollouts, num_checked = seen[0].rollouts, 0
    for row, temperature in enumerate(found["temperatures"]):
        at = rollouts.at(temperature)
        if len(np.unique(at.query_ids_R)) != found["num_queries"][row]:
            continue  # the winner, which the other queries were sampled at, too
        grids, num_checked = at.grids, num_checked + 1
        for column, threshold in enumerate(found["thresholds"]):
            score = mean_balance_score(
                grids.rewards_NK,
                grids.correct_NK,
                trainer.plan.target,
                threshold,
                selectable_NK=grids.selectable_NK,
                **grids.luck,
            )
            assert found["scores"][row][column] == pytest.approx(score, abs=1e-4)
    assert num_checked == 1


def test_a_resumed_training_writes_each_iteration_once(tmp_path, model_path):
    settings = {"save_strategy": "steps", "save_steps": 9, "logging_steps": 1, "max_steps": 18}
    make_trainer(tmp_path, model_path, **settings).train()
    whole = read_run(tmp_path)
    assert [entry["iteration"] for entry in whole.details] == [1, 2]
    make_trainer(tmp_path, model_path, **settings).train(resume_from_checkpoint=str(tmp_path / "checkpoint-9"))
    again = read_run(tmp_path)
    assert again.details == whole.details
    assert [row["step"] for row in again.rows] == [row["step"] for row in whole.rows] == [9, 18]


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here (Debian: apt install chromium)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it(tmp_path, scheme):
    leave_run(tmp_path / "out")
    assert main(["report", str(tmp_path / "out")]) == 0
    picture = tmp_path / "page.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1000,1400"]
    options += ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    command = [str(BROWSER), *options, f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}"]
    subprocess.run([*command, f"file://{tmp_path / 'out/report.html'}"], check=True, capture_output=True, timeout=120)
    pixels = np.asarray(Image.open(picture).convert("L"))
    ground = np.median(pixels)
    assert ground > 200 if scheme == "light" else ground < 60
    assert (np.abs(pixels.astype(int) - int(ground)) > 60).mean() > 0.01  # text and curves
