"""The examples as a user runs them, on real rows, with a policy small enough to train here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import DATA, read_rows
from peft import PeftModel
from policies import make_guesser, make_programmer, make_text_tokenizer, teach
from prms import make_token_classifier
from transformers import AutoModelForCausalLM, AutoTokenizer

EXAMPLES = Path(__file__).parents[1] / "examples"
SHORT = [
    *["--bf16", "false", "--report_to", "none", "--num_generations", "8", "--queries_per_iteration", "20"],
    *["--per_device_train_batch_size", "4", "--iteration_steps", "3", "--max_steps", "6", "--logging_steps", "1"],
    *["--save_strategy", "steps", "--save_steps", "6", "--lora_target_modules", "all-linear", "--use_cpu"],
]


@pytest.mark.slow
def test_gsm8k_learns_from_real_rows(tmp_path):
    rows = [row for row in read_rows(DATA / "gsm8k_train.jsonl") if re.fullmatch("[1-9]", row["answer"])]
    assert len(rows) == 24
    data = tmp_path / "rows.jsonl"
    # As the Hub's data set has them: a question, and an answer that is a whole solution.
    data.write_text("".join(json.dumps({"question": row["prompt"], "answer": row["solution"]}) + "\n" for row in rows))
    model_path, output_dir = str(tmp_path / "guesser"), tmp_path / "out"
    make_guesser(model_path, [row["prompt"] for row in rows])
    words = [
        *["--model_name_or_path", model_path, "--dataset_name", str(data), "--output_dir", str(output_dir)],
        *["--bf16", "false", "--report_to", "none", "--num_generations", "8", "--max_completion_length", "16"],
        *["--per_device_train_batch_size", "4", "--iteration_steps", "3", "--max_steps", "6", "--logging_steps", "1"],
        *["--log_completions", "--save_strategy", "steps", "--save_steps", "3", "--lora_target_modules", "all-linear"],
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    run = subprocess.run(
        [sys.executable, str(EXAMPLES / "gsm8k.py"), *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert run.returncode == 0, run.stderr[-3000:]

    state = json.loads((output_dir / "checkpoint-6" / "trainer_state.json").read_text())
    lines = [line for line in state["log_history"] if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["iteration"] for line in lines] == [0, 0, 0, 1, 1, 1]
    for line in lines:
        assert {
            "balance/score",
            "balance/temperature",
            "balance/threshold",
            "balance/probe_completions",
        } <= line.keys()
        assert 0 < line["rewards/AnswerMatch/mean"] < 1
        assert line["select/samples"] > 0

    import pandas as pd

    tables = [pd.read_parquet(path) for path in sorted((output_dir / "completions").glob("*.parquet"))]
    assert len(tables) == 2
    answers = {row["prompt"]: row["answer"] for row in rows}
    for row in pd.concat(tables).itertuples():
        said = re.findall(r"#### (\d)$", row.completion.strip())
        if said:
            assert row.AnswerMatch == float(said[-1] == answers[row.prompt]), (row.completion, answers[row.prompt])
        assert row.reason
    assert pd.concat(tables)["selected"].any()

    base = AutoModelForCausalLM.from_pretrained(model_path)
    adapted = PeftModel.from_pretrained(base, str(output_dir))
    lora_b = [item for name, item in adapted.named_parameters() if "lora_B" in name]
    assert any(item.abs().max() > 0 for item in lora_b)  # zero before training
    assert AutoTokenizer.from_pretrained(str(output_dir)).eos_token == "<eos>"


@pytest.mark.slow
def test_code_learns_from_unit_tests(tmp_path):
    rows = [row for row in read_rows(DATA / "mbpp.jsonl") if not row["setup"] and len(row["solution"]) < 120][:6]
    assert len(rows) == 6
    data = tmp_path / "rows.jsonl"
    # As the Hub's data set has them.
    hub = [{"text": row["prompt"].split("\n")[0], "test_list": row["tests"], "test_setup_code": ""} for row in rows]
    data.write_text("".join(json.dumps(row) + "\n" for row in hub))
    model_path, output_dir = str(tmp_path / "programmer"), tmp_path / "out"
    make_programmer(model_path, rows)
    words = [
        *["--model_name_or_path", model_path, "--dataset_name", str(data), "--output_dir", str(output_dir)],
        *["--bf16", "false", "--report_to", "none", "--num_generations", "8", "--max_completion_length", "4"],
        *["--per_device_train_batch_size", "4", "--iteration_steps", "3", "--max_steps", "6", "--logging_steps", "1"],
        *["--log_completions", "--save_strategy", "no", "--lora_target_modules", "all-linear", "--use_cpu"],
    ]
    run = subprocess.run(
        [sys.executable, str(EXAMPLES / "code.py"), *words],
        env=os.environ | {"OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert run.returncode == 0, run.stderr[-3000:]

    import pandas as pd

    tables = [pd.read_parquet(path) for path in sorted((output_dir / "completions").glob("*.parquet"))]
    assert len(tables) == 2  # iterations
    solutions = {row["prompt"].split("\n")[0]: row["solution"].strip() for row in rows}
    table = pd.concat(tables)
    assert 0 < table.UnitTests.mean() < 1
    for row in table.itertuples():
        right = solutions[row.prompt.split("\n")[0]] in row.completion
        assert row.UnitTests == float(right), (row.prompt, row.completion, row.reason)
        assert row.reason.startswith("passed" if right else ("exception", "wrong answer"))
    assert table[table.selected].UnitTests.min() == 1.0
    assert (output_dir / "adapter_model.safetensors").exists()


@pytest.mark.slow
def test_arc_learns_from_labels_and_sees_the_luck(tmp_path):
    rows = [row for row in read_rows(DATA / "arc_challenge_train.jsonl") if row["choices"]["label"] == list("ABCD")][
        :30
    ]
    data = tmp_path / "rows.jsonl"
    # As the Hub's data set has them.
    hub = [
        {"question": row["prompt"].split("\nA. ")[0], "choices": row["choices"], "answerKey": row["answer"]}
        for row in rows
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in hub))
    model_path, output_dir = str(tmp_path / "guesser"), tmp_path / "out"
    teach(
        model_path,
        make_text_tokenizer([row["prompt"] for row in rows]),
        [row["prompt"] for row in rows],
        [f"\n{word} #### {label}" for word in ("So", "Or", "As", "If") for label in "ABCD"],
    )
    words = ["--model_name_or_path", model_path, "--dataset_name", str(data), "--output_dir", str(output_dir), *SHORT]
    state = run_example("arc.py", [*words, "--max_completion_length", "16"], output_dir)
    lines = [line for line in state["log_history"] if "loss" in line]
    assert {line["balance/chance"] for line in lines} == {0.25}
    assert lines[0]["select/lucky_share"] > 0.5  # a guesser's right labels are luck
    assert "MultipleChoice (weight 1, the verifier)" in (output_dir / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("paper", [False, True])
def test_answer_and_prm_balance_a_threshold(tmp_path, paper):
    rows = [row for row in read_rows(DATA / "gsm8k_train.jsonl") if re.fullmatch("[1-9]", row["answer"])]
    data = tmp_path / "rows.jsonl"
    # As MATH on the Hub: the answer stands in the solution.
    hub = [{"problem": row["prompt"], "solution": row["solution"]} for row in rows]
    data.write_text("".join(json.dumps(row) + "\n" for row in hub))
    model_path, output_dir = str(tmp_path / "guesser"), tmp_path / "out"
    make_guesser(model_path, [row["prompt"] for row in rows])
    prm_path = make_token_classifier(tmp_path / "prm")
    words = ["--model_name_or_path", model_path, "--dataset_name", str(data), "--output_dir", str(output_dir), *SHORT]
    words += ["--prm", prm_path, "--max_completion_length", "16", *(["--paper"] if paper else [])]
    state = run_example("answer_and_prm.py", words, output_dir)
    lines = [line for line in state["log_history"] if "loss" in line]
    assert {"rewards/AnswerMatch/mean", "rewards/ProcessReward/mean"} <= lines[0].keys()
    assert 0 < lines[0]["rewards/AnswerMatch/mean"] < 1
    in_tenths = [abs(10 * line["balance/threshold"] - round(10 * line["balance/threshold"])) < 1e-6 for line in lines]
    assert all(in_tenths) is paper


def run_example(script: str, words: list[str], output_dir: Path) -> dict:
    """The trainer's state after six steps, two iterations."""
    run = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *words],
        env=os.environ | {"OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert (output_dir / "adapter_model.safetensors").exists()
    return json.loads((output_dir / "checkpoint-6" / "trainer_state.json").read_text())
