"""One run, sent to TensorBoard and trackio by their real clients, and read back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import TESTS, make_trainer
from read_wandb import read_run as read_wandb

from bstar_trl import BalanceCallback
from bstar_trl.reports.page import render
from bstar_trl.reports.run_files import read_run

NOT_SENT = {"epoch", "step", "total_flos"}  # W&B and TensorBoard have axes for them


class Digits:
    """A verifier."""

    __name__ = "digits"
    is_verifier = True

    def __call__(self, completions, **columns):
        return [float(any(map(str.isdigit, text[:4]))) for text in completions]


def main(folder: str, model_path: str) -> None:
    """Trains in a process of its own: its end completes the trackers' files."""
    trainer = make_trainer(
        folder,
        model_path,
        reward_funcs=Digits(),
        callbacks=[BalanceCallback([0.7, 1.2])],
        report_to=["wandb", "tensorboard", "trackio"],
        project="numbers",
        run_name="numbers",
        log_completions=True,
        logging_steps=3,
        max_steps=18,
    )
    trainer.train()
    Path(folder, "history.json").write_text(json.dumps(trainer.state.log_history))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model_path) -> Path:
    folder = tmp_path_factory.mktemp("numbers")
    environment = os.environ | {
        "PYTHONPATH": str(TESTS),
        "WANDB_DIR": str(folder),
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "TRACKIO_DIR": str(folder / "trackio"),
        "TENSORBOARD_LOGGING_DIR": str(folder / "tensorboard"),
    }
    done = subprocess.run(
        [sys.executable, __file__, str(folder), model_path],
        env=environment,
        timeout=300,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "was not sent everything" not in done.stderr + done.stdout, done.stderr
    return folder


def training_lines(folder: Path) -> list[dict]:
    """The log's lines of training steps, without what is an axis to trackers."""
    history = json.loads((folder / "history.json").read_text())
    return [line for line in history if "loss" in line]


def events(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(
        str(folder / "tensorboard"), size_guidance=dict.fromkeys(("tensors", "scalars", "images", "histograms"), 0)
    )
    found.Reload()
    return found


def test_a_number_is_the_same_everywhere(folder):
    (path,) = (folder / "wandb").glob("offline-run-*")
    wandb = {row["train/global_step"]: row for row in read_wandb(path).history if "train/loss" in row}
    board = events(folder)
    page = render([read_run(folder)])
    rows = {row["step"]: row for row in read_run(folder).rows}
    lines = training_lines(folder)
    assert len(lines) == 6
    numbers = 0
    for line in lines:
        for name, value in line.items():
            if name in NOT_SENT:
                continue
            numbers += 1
            assert wandb[line["step"]][f"train/{name}"] == value, name
            # The line that ends the training repeats the figures of its last step.
            scalars = {item.value for item in board.Scalars(f"train/{name}") if item.step == line["step"]}
            assert {np.float32(scalar) for scalar in scalars} == {np.float32(value)}, name
            if line["step"] in rows:  # the last of an iteration
                assert name == "iteration" or rows[line["step"]][name] == value, name
    assert numbers > 6 * 40
    for row in rows.values():
        for name in ("balance/temperature", "explore/pass@1", "cost/sampling_seconds"):
            assert f"iteration {row['iteration']}: {row[name]:.4g}<" in page, name


def test_trackio_has_the_same_numbers(folder, monkeypatch):
    (path,) = (folder / "trackio").rglob("*numbers*.db")
    import sqlite3

    with sqlite3.connect(path) as database:
        logged = [json.loads(row[0]) for row in database.execute("select metrics from metrics order by id")]
    by_step = {row["train/global_step"]: row for row in logged if "train/loss" in row}
    for line in training_lines(folder):
        for name, value in line.items():
            if name not in NOT_SENT:
                assert by_step[line["step"]][f"train/{name}"] == value, name


def test_tensorboard_has_maps_histograms_configuration_and_responses(folder):
    board = events(folder)
    details = read_run(folder).details
    assert len(board.Images("train/score_map")) == len(details) == 2
    for name in ("correct", "wrong"):
        for item, entry in zip(board.Histograms(f"train/histograms/rewards_{name}"), details, strict=True):
            value = item.histogram_value
            assert value.num == sum(entry["rewards"][name])
            assert [count for count in value.bucket if count] == [count for count in entry["rewards"][name] if count]
    texts = {tag: board.Tensors(tag) for tag in board.Tags()["tensors"]}
    (described,) = [items for tag, items in texts.items() if tag.startswith("bstar")]
    assert '"temperatures"' in described[0].tensor_proto.string_val[0].decode()
    (shown,) = [items for tag, items in texts.items() if tag.startswith("completions")]
    assert [item.step for item in shown] == [3, 12]
    assert "| selected |" in shown[0].tensor_proto.string_val[0].decode()


if __name__ == "__main__":
    main(*sys.argv[1:])
