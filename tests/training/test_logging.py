"""What reaches the logs: real W&B files, the completions table, and an explanation when nothing was selected."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from conftest import TESTS, make_chat_dataset, make_dataset, make_trainer, text_of
from PIL import Image
from read_wandb import read_run, read_tables
from transformers import TrainerCallback

from bstar_trl import BalanceCallback
from bstar_trl.rewards import RewardFn, Score
from bstar_trl.trackers import WandbTracker, make_trackers


class Digits(RewardFn):
    """A verifier with reasons."""

    is_verifier = True

    def score(self, prompts, completions, **columns):
        return [Score(float(any(map(str.isdigit, text[:4]))), f"{len(text)} letters") for text in completions]


def short(completions, log_extra, log_metric, **kwargs):
    """A scorer that logs and that does not apply everywhere."""
    log_extra("size", [len(text_of(item)) for item in completions])
    log_metric("sizes/largest", max(len(text_of(item)) for item in completions))
    return [None if len(text_of(item)) > 6 else 0.1 for item in completions]


def main(output_dir: str, model_path: str) -> None:
    """A script with two runs that log to W&B. It needs a process of its own: its end completes the files."""
    import wandb

    settings = {"reward_funcs": [Digits(), short], "report_to": "wandb", "log_completions": True}
    whole = make_trainer(
        output_dir,
        model_path,
        callbacks=[BalanceCallback([0.7, 1.2])],
        run_name="whole",
        logging_steps=3,
        max_steps=18,
        **settings,
    )
    whole.train()
    wandb.finish()
    details = Path(output_dir, "run_log", "iterations.jsonl").read_text().splitlines()
    Path(output_dir, "details.json").write_text(f"[{','.join(details)}]")
    make_trainer(output_dir, model_path, run_name="unique", log_unique_prompts=True, max_steps=1, **settings).train()
    Path(output_dir, "history.json").write_text(json.dumps(whole.balance.history))


@pytest.fixture(scope="module")
def logged(tmp_path_factory, model_path) -> Path:
    """The folder in which the two runs were written."""
    folder = tmp_path_factory.mktemp("logged")
    environment = os.environ | {"WANDB_DIR": str(folder), "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    environment["PYTHONPATH"] = str(TESTS)
    subprocess.run([sys.executable, __file__, str(folder), model_path], env=environment, check=True, timeout=200)
    return folder


def folder_of(logged: Path, name: str) -> Path:
    """Where the run of this name was written."""
    (folder,) = [path for path in (logged / "wandb").glob("offline-run-*") if read_run(path).name == name]
    return folder


def test_every_balance_scalar_is_in_the_wandb_file(logged):
    history = json.loads((logged / "history.json").read_text())
    run = read_run(folder_of(logged, "whole"))
    rows = [row for row in run.history if "train/balance/score" in row]
    assert [row["train/global_step"] for row in rows] == [3, 6, 9, 12, 15, 18, 18]  # the last: the end
    for row in rows:
        entry = history[(row["train/global_step"] - 1) // 9]
        assert {f"train/{name}": value for name, value in entry.items()}.items() <= row.items()
        assert row["train/explore/temperature"] == entry["balance/temperature"]
        assert row["train/sizes/largest"] <= 8
        assert {"train/rewards/Digits/mean", "train/rewards/short/mean", "train/reward"} <= row.keys()
    assert run.config["inheritance"] == "online"
    assert run.config["temperature"] == 1.0


def test_wandb_gets_the_axis_and_the_configuration(logged):
    run = read_run(folder_of(logged, "whole"))
    assert run.config["bstar"]["balance"]["temperatures"] == [0.7, 1.2]
    assert run.config["bstar"]["balance"]["chance"] == "estimate"
    assert run.config["bstar"]["plan"]["num_queries"] == 17
    assert run.config["bstar"]["rewards"] == "Digits (weight 1, the verifier), short (weight 1)"
    assert {"train/balance/*", "train/explore/*", "train/select/*"} <= {
        name for name, axis in run.axes.items() if axis == "train/iteration"
    }


def test_wandb_gets_maps_histograms_and_a_table_that_grows(logged):
    folder = folder_of(logged, "whole")
    run, details = read_run(folder), read_iterations(logged)
    maps = [row for row in run.history if "train/score_map/path" in row]
    assert [row["train/iteration"] for row in maps] == [0, 1]
    for row in maps:
        with Image.open(folder / "files" / row["train/score_map/path"]) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 200
    for row, entry in zip(maps, details, strict=True):
        rewards = entry["rewards"]
        for kind in ("correct", "wrong"):
            assert row[f"train/histograms/rewards_{kind}/values"] == rewards[kind]
            assert row[f"train/histograms/rewards_{kind}/bins"] == pytest.approx(rewards["edges"])
        for name in ("selected", "unique_correct"):
            assert row[f"train/histograms/{name}/values"] == entry[name]
    assert [len(table) for table in read_tables(folder, "completions")] == [51, 51]  # only the new rows are sent
    assert [set(table["iteration"]) for table in read_tables(folder, "completions")] == [{0}, {1}]


def test_monitoring_that_fails_warns_and_stops_nothing(monkeypatch, caplog):
    import wandb

    class Broken:
        def define_metric(self, name, step_metric=None):
            pass

        @property
        def config(self):
            raise OSError("no space left on device")

    monkeypatch.setattr(wandb, "run", Broken())
    tracker = WandbTracker(dict, list)
    for _ in range(2):
        tracker.send_completions(0, 1, pd.DataFrame({"prompt": ["a"]}))
    assert [record.message for record in caplog.records].count(
        "W&B was not sent everything, the training goes on: no space left on device"
    ) == 1


def test_each_tracker_is_made_for_its_name_alone():
    assert [tracker.title for tracker in make_trackers(["wandb", "trackio", "mlflow"], dict, list)] == [
        "W&B",
        "trackio",
    ]
    assert make_trackers(None, dict, list) == []


def read_iterations(logged) -> list[dict]:
    return json.loads((logged / "details.json").read_text())


def test_only_unique_prompts_are_sent_to_wandb(logged):
    prompts = make_dataset()["prompt"][:]
    for table in read_tables(folder_of(logged, "whole"), "completions"):
        assert sorted(table["prompt"]) == sorted(3 * prompts)  # K = 3
    (table,) = read_tables(folder_of(logged, "unique"), "completions")
    assert sorted(table["prompt"]) == sorted(set(prompts))


@pytest.mark.parametrize("conversational", [False, True], ids=["plain", "chat"])
def test_completions_table_says_what_was_selected_and_why(tmp_path, model_path, capsys, conversational):
    trainer = make_trainer(
        tmp_path,
        model_path,
        reward_funcs=[Digits(), short],
        train_dataset=make_chat_dataset() if conversational else make_dataset(),
        callbacks=[BalanceCallback([0.7, 1.2])],
        log_completions=True,
        num_completions_to_print=2,
        logging_steps=9,
        max_steps=18,
    )
    trainer.train()
    files = sorted((tmp_path / "completions").glob("*.parquet"))
    assert [item.name for item in files] == ["completions_00009.parquet", "completions_00018.parquet"]
    table = pd.read_parquet(files[0])
    assert len(table) == 51
    selected = next(line["select/samples"] for line in trainer.state.log_history if line["step"] == 9)
    assert table["selected"].sum() == selected > 0
    assert (table.loc[table["selected"], "reward"] > trainer.balance.history[0]["balance/threshold"]).all()
    assert table.loc[table["selected"], "ended"].all()
    assert set(table["temperature"]) == {0.7, 1.2}  # the slices are training material, too
    for row in table.itertuples():
        assert row.reason == f"{len(row.completion)} letters"
        assert row.Digits == float(any(map(str.isdigit, row.completion[:4])))
        assert row.size == len(row.completion)
        assert pd.isna(row.short) == (len(row.completion) > 6)
    assert "Step 9" in capsys.readouterr().out


def test_seconds_are_those_of_their_phase(tmp_path, model_path):
    class Slow(Digits):
        def score(self, prompts, completions, **columns):
            time.sleep(0.3)
            return super().score(prompts, completions, **columns)

    class Pause(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            time.sleep(0.2)

    trainer = make_trainer(
        tmp_path,
        model_path,
        reward_funcs=[Slow()],
        callbacks=[BalanceCallback([0.7, 1.2]), Pause()],
        eval_dataset=make_dataset(),
        eval_strategy="steps",
        eval_steps=9,
        logging_steps=9,
        max_steps=18,
    )
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    evaluations = [line["eval_runtime"] for line in trainer.state.log_history if "eval_runtime" in line]
    for line in lines:
        assert line["cost/scoring_seconds"] >= 0.3
        assert line["cost/training_seconds"] >= 8 * 0.2  # the line of the ninth step is written before its pause
    assert len(evaluations) == 2
    parts = sum(sum(value for name, value in line.items() if name.startswith("cost/")) for line in lines)
    assert parts + sum(evaluations) < trainer.state.log_history[-1]["train_runtime"]  # nothing is counted twice


def test_scripts_do_not_need_wandb(tmp_path):
    """Importing the trainer works where wandb is not installed."""
    code = "import sys; sys.modules['wandb'] = None; import bstar_trl.training.trainer"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(tmp_path), capture_output=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
