"""`bstar-trl train` as typed, and the configurations of `examples/`, with models small enough to train here."""

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
from transformers import AutoModelForCausalLM

from bstar_trl.cli import main
from bstar_trl.testbed import policy_path
from bstar_trl.testbed.task import make_dataset

ROOT = Path(__file__).parents[2]
SMALL = [
    *["--queries_per_iteration", "20", "--num_generations", "8", "--balance_target", "4", "--iteration_steps", "3"],
    *["--max_steps", "6", "--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "1"],
    *["--save_steps", "3", "--bf16", "false", "--use_cpu", "true", "--use_vllm", "false", "--report_to", "none"],
]


def run(*words: str, status: int = 0, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "bstar_trl.cli", "train", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    found = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=500)
    assert found.returncode == status, found.stderr[-3000:]
    return found


def log_of(out: Path) -> list[dict]:
    state = json.loads((out / "checkpoint-6" / "trainer_state.json").read_text())
    return [line for line in state["log_history"] if "loss" in line]


@pytest.mark.slow
def test_a_file_of_questions_becomes_an_adapter(tmp_path):
    with (tmp_path / "sums.jsonl").open("w") as file:
        for row in make_dataset(30, (3,)):
            file.write(json.dumps({"question": row["prompt"], "solution": row["answer"]}) + "\n")
    (tmp_path / "config.yaml").write_text(
        f"model_name_or_path: {policy_path()}\ndataset_name: sums.jsonl\neval_dataset_name: sums.jsonl\n"
        "eval_strategy: steps\neval_steps: 3\nrewards:\n- path: bstar_trl.testbed.rewards:SumMatch\noutput_dir: out\n"
    )
    words = ["config.yaml", *SMALL, "--max-completion-length", "40"]
    printed = run(*words, "--max_steps", "3", cwd=tmp_path)
    assert [line.split()[0] for line in printed.stdout.splitlines() if re.match(r" +\d ", line)] == ["1"]
    assert printed.stdout.endswith("Model and card: out\n")
    out = tmp_path / "out"
    base = AutoModelForCausalLM.from_pretrained(policy_path())
    adapted = PeftModel.from_pretrained(base, str(out))
    assert any(item.abs().max() > 0 for name, item in adapted.named_parameters() if "lora_B" in name)
    assert "sums.jsonl, 30 rows" in (out / "README.md").read_text()

    again = run(*words, cwd=tmp_path)  # goes on after its third step
    assert "out holds a checkpoint: the run goes on there" in again.stderr
    lines = log_of(out)
    assert [line["iteration"] for line in lines][-1] == 1
    assert lines[-1]["step"] == 6
    seconds = [(path, path.stat().st_mtime) for path in sorted(out.glob("checkpoint-3/*"))]
    assert seconds  # the first part's checkpoint was not written again
    weights = (out / "adapter_model.safetensors").read_bytes()
    done = run(*words, "--lr_scheduler_type", "constant", cwd=tmp_path)
    assert "is the end of its run: a larger max_steps trains on" in done.stderr
    assert (out / "adapter_model.safetensors").read_bytes() == weights
    assert log_of(out) == lines

    anew = run(*words, "--resume_from_checkpoint", "false", "--max_steps", "3", cwd=tmp_path)
    assert "goes on" not in anew.stderr


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--lerning_rate", "1"], 2, "did you mean 'learning_rate'"),
        (["--model_name_or_path", "no/such-model"], 2, "cannot load the tokenizer of 'no/such-model'"),
        (["--eval_strategy", "steps"], 2, "eval_strategy needs rows"),
        (["--rewards", "[{name: answer_match, column: gold}]"], 2, "gold"),
        (
            ["--per_device_train_batch_size", "-4"],
            2,
            "per_device_train_batch_size must be a whole number of at least 1",
        ),
        (["--max_completion_length", "-8"], 2, "max_completion_length must be a whole number of at least 1, got -8"),
        (["--learning_rate", "-1"], 2, "learning_rate must be at least 0, got -1"),
        (["--max_steps", "-3"], 2, "max_steps must be at least 1, or -1"),
        (["--model_name_or_path", "killed"], 2, "but checkpoints: name one of killed/checkpoint-3"),
        (["--model_name_or_path", "./nothing"], 2, "there is no such folder"),
        (["--max_completion_length", "1"], 1, "max_completion_length=1"),
        (["--model_name_or_path", "adapter"], 2, "adapter is an adapter. Another one trained upon it"),
    ],
)
def test_exit_codes(tmp_path, words, status, message, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sums.jsonl").write_text(
        "".join(
            json.dumps({"prompt": row["prompt"], "answer": row["answer"]}) + "\n" for row in make_dataset(20, (3,))
        )
    )
    (tmp_path / "adapter").mkdir()
    (tmp_path / "killed" / "checkpoint-3").mkdir(parents=True)
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    given = ["--model_name_or_path", policy_path(), "--dataset_name", "sums.jsonl", "--output_dir", "out", *SMALL]
    assert main(["train", *given, *words]) == status
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "adapter_model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["math", "qlora"])
def test_configurations_of_mathematics(tmp_path, name):
    rows = [row for row in read_rows(DATA / "gsm8k_train.jsonl") if re.fullmatch("[1-9]", row["answer"])]
    gold = {"math": "solution", "qlora": "answer"}[name]
    question = {"math": "problem", "qlora": "question"}[name]
    data = write(tmp_path, [{question: row["prompt"], gold: row["solution"]} for row in rows])
    model = str(tmp_path / "guesser")
    make_guesser(model, [row["prompt"] for row in rows])
    words = ["--model_name_or_path", model, "--max_completion_length", "16", "--chat", "false", "--system_prompt="]
    if name == "math":
        prm = make_token_classifier(tmp_path / "prm")
        words += ["--rewards", f"[{{name: answer_match}}, {{name: process_reward, model: {prm}}}]"]
    lines = train(name, data, tmp_path / "out", words)
    assert 0 < lines[0]["rewards/AnswerMatch/mean"] < 1
    assert ("rewards/ProcessReward/mean" in lines[0]) is (name == "math")
    if name == "math":  # the paper's grid
        assert all(
            abs(10 * line["balance/threshold"] - round(10 * line["balance/threshold"])) < 1e-6 for line in lines
        )


@pytest.mark.slow
def test_configuration_of_commonsense(tmp_path):
    rows = [row for row in read_rows(DATA / "arc_challenge_train.jsonl") if row["choices"]["label"] == list("ABCD")]
    questions = [row["prompt"].split("\nA. ")[0] for row in rows]
    hub = [
        {"question": question, "choices": row["choices"], "answerKey": row["answer"]}
        for question, row in zip(questions, rows, strict=True)
    ]
    model = str(tmp_path / "guesser")
    prompts = [f"{row['prompt']}\n\nReason step by step." for row in rows]
    endings = [f"\n{word} #### {label}" for word in ("So", "Or", "As", "If") for label in "ABCD"]
    teach(model, make_text_tokenizer(prompts), prompts, endings)
    words = ["--model_name_or_path", model, "--max_completion_length", "16", "--chat", "false"]
    lines = train("arc", write(tmp_path, hub[:30]), tmp_path / "out", words)
    assert {line["balance/chance"] for line in lines} == {0.25}


@pytest.mark.slow
def test_configuration_of_code(tmp_path):
    rows = [row for row in read_rows(DATA / "mbpp.jsonl") if not row["setup"] and len(row["solution"]) < 120][:6]
    hub = [{"text": row["prompt"].split("\n")[0], "test_list": row["tests"], "test_setup_code": ""} for row in rows]
    model = str(tmp_path / "programmer")
    make_programmer(model, rows)
    words = ["--model_name_or_path", model, "--max_completion_length", "4", "--chat", "false", "--system_prompt="]
    lines = train("code", write(tmp_path, hub), tmp_path / "out", [*words, "--queries_per_iteration", "6"])
    assert 0 < lines[0]["rewards/UnitTests/mean"] < 1


def write(folder: Path, rows: list[dict]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def train(name: str, data: str, out: Path, words: list[str]) -> list[dict]:
    """The log of two iterations of `examples/<name>.yaml`."""
    run(f"examples/{name}.yaml", "--dataset_name", data, "--output_dir", str(out), *SMALL, *words)
    assert (out / "adapter_model.safetensors").exists()
    return log_of(out)
