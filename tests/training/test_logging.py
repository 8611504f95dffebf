"""What reaches the logs: real W&B files, the completions table, and an explanation when nothing was selected."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import SHARED, TESTS, make_chat_dataset, make_dataset, make_trainer, text_of

from bstar_trl import BalanceCallback
from bstar_trl.rewards import RewardFn, Score

READER = SHARED / "tools" / "read_wandb.py"


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
    """A script that logs to W&B, run as a process of its own: its end is what completes the file."""
    trainer = make_trainer(
        output_dir,
        model_path,
        reward_funcs=[Digits(), short],
        callbacks=[BalanceCallback([0.7, 1.2])],
        report_to="wandb",
        logging_steps=3,
        max_steps=18,
    )
    trainer.train()
    Path(output_dir, "history.json").write_text(json.dumps(trainer.balance.history))


@pytest.mark.skipif(not READER.exists(), reason="the reader of W&B files lies beside the repository, not in it")
def test_every_balance_scalar_is_in_the_wandb_file(tmp_path, model_path):
    environment = os.environ | {"WANDB_DIR": str(tmp_path), "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    environment["PYTHONPATH"] = str(TESTS)
    subprocess.run([sys.executable, __file__, str(tmp_path), model_path], env=environment, check=True, timeout=200)
    history = json.loads((tmp_path / "history.json").read_text())
    sys.path.insert(0, str(READER.parent))
    try:
        from read_wandb import read
    finally:
        sys.path.pop(0)
    (path,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    content = read(str(path))
    rows = [row for row in content["history"] if "train/balance/score" in row]
    assert [row["train/global_step"] for row in rows] == [3, 6, 9, 12, 15, 18, 18]  # the last: the end
    for row in rows:
        entry = history[(row["train/global_step"] - 1) // 9]
        assert {f"train/{name}": value for name, value in entry.items()}.items() <= row.items()
        assert row["train/explore/temperature"] == entry["balance/temperature"]
        assert row["train/sizes/largest"] <= 8
        assert {"train/rewards/Digits/mean", "train/rewards/short/mean", "train/reward"} <= row.keys()
    assert content["config"]["inheritance"] == "online"
    assert content["config"]["temperature"] == 1.0


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
    assert set(table["temperature"]) == {trainer.balance.history[0]["balance/temperature"]}
    for row in table.itertuples():
        assert row.reason == f"{len(row.completion)} letters"
        assert row.Digits == float(any(map(str.isdigit, row.completion[:4])))
        assert row.size == len(row.completion)
        assert pd.isna(row.short) == (len(row.completion) > 6)
    assert "Step 9" in capsys.readouterr().out


def test_scripts_do_not_need_wandb(tmp_path):
    """Importing the trainer works where wandb is not installed."""
    code = "import sys; sys.modules['wandb'] = None; import bstar_trl.training.trainer"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(tmp_path), capture_output=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
