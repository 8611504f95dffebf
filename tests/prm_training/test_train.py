"""Training a process reward model: the loss, real tiny trainings, and the folder that comes of them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DATA, SHARED, make_model, make_tokenizer, read_rows, skip_without
from datasets import Dataset
from peft import LoraConfig
from policies import make_text_tokenizer
from scipy.special import logsumexp
from transformers import AutoModelForTokenClassification, AutoTokenizer, TrainerCallback

from bstar_trl.cli import main
from bstar_trl.errors import ConfigurationError
from bstar_trl.prm_training.data import IGNORED, check_row, encode_rows, load_rows
from bstar_trl.prm_training.train import (
    StepCollator,
    load_classifier,
    prm_arguments,
    step_loss,
    train_prm,
    with_lora,
)
from bstar_trl.rewards import ProcessReward

PRMBENCH = DATA / "prmbench.jsonl"


def make_rows(count: int, seed: int = 0) -> Dataset:
    """Steps of letters; one that holds an `a` is right 90 % of the time, others 20 %: soft labels to be learned."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        steps = ["".join(rng.choice(list("abcdef"), size=rng.integers(1, 4))) for _ in range(rng.integers(1, 6))]
        labels = [0.9 if "a" in step else 0.2 for step in steps]
        rows.append(check_row({"prompt": "1+1=", "completions": steps, "labels": labels}))
    return Dataset.from_list(rows)


def make_arguments(output_dir, **changes):
    settings = {
        "learning_rate": 5e-3,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 3,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "warmup_steps": 0,
        "lr_scheduler_type": "constant",
        "bf16": False,
    }
    return prm_arguments(output_dir, **{**settings, **changes})


def probabilities_of(folder: str | Path, rows: Dataset, separator: str = "\n") -> list[list[float]]:
    """Another way to the step probabilities: one row at a time, without padding, label places found in the text."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForTokenClassification.from_pretrained(folder).eval()
    found = []
    for row in rows:
        text, places = row["prompt"], []
        for step in row["completions"]:
            text += step + separator
            places.append(len(text) - 1)  # a token per character
        with torch.no_grad():
            logits = model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits[0].double()
        found.append([float(1 / (1 + math.exp(row[0] - row[1]))) for row in logits[places].tolist()])
    return found


def weights_of(folder: str | Path) -> dict[str, torch.Tensor]:
    return AutoModelForTokenClassification.from_pretrained(folder).state_dict()


def test_the_loss_is_cross_entropy_against_the_soft_label():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(3, 4, 2)), rng.random((3, 4))
    labels[[0, 1, 2], [1, 0, 3]] = IGNORED
    terms = []
    for scores, label in zip(logits.reshape(-1, 2), labels.ravel(), strict=True):
        if label != IGNORED:
            logs = scores - logsumexp(scores)
            terms.append(-(1 - label) * logs[0] - label * logs[1])
    outputs = {"logits": torch.tensor(logits)}
    assert float(step_loss(outputs, torch.tensor(labels))) == pytest.approx(np.mean(terms))
    assert float(step_loss(outputs, torch.tensor(labels), 20)) == pytest.approx(np.sum(terms) / 20)


def test_the_collator_pads_on_the_right():
    rows = Dataset.from_list(
        [
            check_row({"prompt": "1", "completions": ["a", "b"], "labels": [0.25, None]}),
            check_row({"prompt": "1+1=", "completions": ["abc"], "labels": [1]}),
        ]
    )
    batch = StepCollator(make_tokenizer())(list(encode_rows(rows, make_tokenizer()).dataset))
    assert batch["attention_mask"].tolist() == [[1] * 5 + [0] * 3, [1] * 8]
    assert batch["input_ids"][0, 5:].tolist() == [0, 0, 0]
    expected = torch.full((2, 8), IGNORED)
    expected[0, 2], expected[1, 7] = 0.25, 1.0
    assert torch.equal(batch["labels"], expected)


def test_what_is_learned_are_the_soft_labels_and_the_folder_scores_as_measured(tmp_path, model_path):
    rows, held_out = make_rows(400), make_rows(40, seed=1)
    figures = train_prm(model_path, rows, held_out, args=make_arguments(tmp_path, num_train_epochs=4))
    found = probabilities_of(tmp_path, held_out)
    flat, truth = np.concatenate(found), np.concatenate(held_out["labels"])
    assert np.abs(flat - truth).mean() < 0.1  # hard labels would end near 0 and 1
    assert 0.8 < flat[truth == 0.9].mean() < 0.97
    assert 0.1 < flat[truth == 0.2].mean() < 0.3
    # What was measured in padded batches is what the saved folder says of single rows.
    assert figures["eval_step_accuracy"] == pytest.approx(np.mean((flat >= 0.5) == (truth >= 0.5)))
    whole = [[label >= 0.5 for label in row] for row in held_out["labels"]]
    said = [[value >= 0.5 for value in row] for row in found]
    right = [one == other for one, other in zip(whole, said, strict=True) if all(one)]
    assert figures["eval_first_error_rows"] == len(held_out)
    assert figures["eval_right_accuracy"] == pytest.approx(
        np.mean([all(one) for one, label in zip(said, whole, strict=True) if all(label)])
    )
    assert len(right) > 2
    assert json.loads((tmp_path / "metrics.json").read_text()) == figures
    config = AutoModelForTokenClassification.from_pretrained(tmp_path).config
    assert (config.step_separator, config.id2label) == ("\n", {0: "wrong", 1: "right"})


def test_rows_keep_their_order_in_evaluation(tmp_path, model_path):
    # Long and short rows in turn: batches by length would mix up which solutions belong to which prompt.
    rows = [
        {"prompt": f"{index // 4}=", "completions": ["b" * (1 + index % 4 * 5), "c"], "labels": [1, index % 3 == 0]}
        for index in range(16)
    ]
    correct = [index % 5 == 0 for index in range(16)]
    dataset = Dataset.from_list(
        [check_row({**row, "correct": right}) for row, right in zip(rows, correct, strict=True)]
    )
    figures = train_prm(model_path, make_rows(8), dataset, args=make_arguments(tmp_path, max_steps=1))
    lowest = np.array([min(row) for row in probabilities_of(tmp_path, dataset)]).reshape(4, 4)
    best = np.array(correct).reshape(4, 4)[np.arange(4), lowest.argmax(axis=1)]
    assert figures["eval_best_of_k"] == pytest.approx(best.mean())
    assert figures["eval_k"] == 4


def test_accumulated_batches_give_the_gradient_of_one_big_batch(tmp_path, model_path):
    # Rows with 1 to 5 steps: a mean of the batches' means would weigh the steps unequally.
    common = {"max_steps": 2, "optim": "sgd", "train_sampling_strategy": "sequential", "max_grad_norm": 0.0}
    rows = make_rows(16)
    train_prm(model_path, rows, args=make_arguments(tmp_path / "one", **common))
    small = {**common, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    train_prm(model_path, rows, args=make_arguments(tmp_path / "many", **small))
    one, many = weights_of(tmp_path / "one"), weights_of(tmp_path / "many")
    before = AutoModelForTokenClassification.from_pretrained(model_path).state_dict()
    moved = max(float((one[name] - before[name]).abs().max()) for name in one if "score" not in name)
    assert moved > 1e-4
    for name, weight in one.items():
        assert torch.allclose(weight, many[name], atol=1e-6, rtol=0), name


def test_the_same_seed_gives_the_same_model(tmp_path, model_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        torch.manual_seed(hash(name) % 1000)  # what ran before must not matter
        train_prm(model_path, make_rows(16), args=make_arguments(tmp_path / name, max_steps=2, seed=seed))
    first, same, other = (weights_of(tmp_path / name) for name in "abc")
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["score.weight"], other["score.weight"])


class StopAt(TrainerCallback):
    """Stops after a step, and knows which were done."""

    def __init__(self, step: int):
        self.step = step
        self.done: list[int] = []

    def on_step_end(self, args, state, control, **kwargs):
        self.done.append(state.global_step)
        control.should_training_stop |= state.global_step == self.step


def test_a_resumed_training_ends_as_if_it_had_not_stopped(tmp_path, model_path):
    saving = {"save_strategy": "steps", "save_steps": 3, "num_train_epochs": 2, "lr_scheduler_type": "linear"}
    rows = make_rows(32)
    train_prm(model_path, rows, args=make_arguments(tmp_path / "through", **saving))
    with pytest.raises(ConfigurationError, match="nothing to resume from: no checkpoint in"):
        train_prm(model_path, rows, args=make_arguments(tmp_path / "stopped", **saving), resume=True)
    train_prm(model_path, rows, args=make_arguments(tmp_path / "stopped", **saving), callbacks=[StopAt(5)])
    through, stopped = weights_of(tmp_path / "through"), weights_of(tmp_path / "stopped")
    assert not torch.equal(through["score.weight"], stopped["score.weight"])
    watch = StopAt(8)
    train_prm(model_path, rows, args=make_arguments(tmp_path / "stopped", **saving), resume=True, callbacks=[watch])
    assert 1 not in watch.done
    assert watch.done[-1] == 8
    resumed = weights_of(tmp_path / "stopped")
    for name, weight in through.items():
        assert torch.allclose(weight, resumed[name], atol=1e-6), name


def test_a_lora_is_merged_into_the_folder(tmp_path, model_path):
    lora = LoraConfig(r=4, target_modules="all-linear")
    trained = load_classifier(model_path, "\n", lora)
    names = [name for name, weight in trained.named_parameters() if weight.requires_grad]
    assert all("lora_" in name or "score.modules_to_save" in name for name in names)
    assert sum("score" in name for name in names) == 2
    assert lora.task_type is None  # the caller's own stays as it was

    rows, held_out = make_rows(200), make_rows(40, seed=1)
    args = make_arguments(tmp_path, num_train_epochs=2, learning_rate=2e-2)
    figures = train_prm(model_path, rows, held_out, args=args, peft_config=lora)
    assert not list(tmp_path.glob("adapter*"))
    flat, truth = np.concatenate(probabilities_of(tmp_path, held_out)), np.concatenate(held_out["labels"])
    assert figures["eval_step_auc"] > 0.8
    pairs = [(a > b) + (a == b) / 2 for a in flat[truth >= 0.5] for b in flat[truth < 0.5]]
    assert figures["eval_step_auc"] == pytest.approx(np.mean(pairs), abs=1e-3)
    before = AutoModelForTokenClassification.from_pretrained(model_path).state_dict()
    after = weights_of(tmp_path)
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    assert not torch.equal(before["model.layers.0.mlp.up_proj.weight"], after["model.layers.0.mlp.up_proj.weight"])


def test_the_head_beside_a_lora_is_in_full_precision(tmp_path, model_path):
    classifier = AutoModelForTokenClassification.from_pretrained(model_path, num_labels=2, dtype=torch.bfloat16)
    classifier.save_pretrained(tmp_path)
    half = with_lora(AutoModelForTokenClassification.from_pretrained(tmp_path, dtype="auto"), LoraConfig(r=2))
    trained = {name: weight for name, weight in half.named_parameters() if weight.requires_grad}
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    assert any("modules_to_save" in name for name in trained)
    frozen = {weight.dtype for weight in half.parameters() if not weight.requires_grad}
    assert torch.bfloat16 in frozen
    logits = half(torch.tensor([[3, 4, 5]])).logits  # outside of mixed precision too
    assert logits.dtype == torch.float32
    merged = half.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForTokenClassification.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert torch.allclose(again(torch.tensor([[3, 4, 5]])).logits, logits, atol=0.05)


def test_a_torn_checkpoint_and_a_used_folder_are_told(tmp_path, model_path):
    saving = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    train_prm(model_path, make_rows(8), args=make_arguments(tmp_path, **saving))
    with pytest.raises(
        ConfigurationError, match=r"checkpoint-1 is of an earlier training: resume it, or use another folder"
    ):
        train_prm(model_path, make_rows(8), args=make_arguments(tmp_path, **saving))
    for name in ("trainer_state.json", "model.safetensors", "optimizer.pt"):
        file = tmp_path / "checkpoint-1" / name
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ConfigurationError, match="checkpoint-1 is incomplete, and cannot be resumed from"):
            train_prm(model_path, make_rows(8), args=make_arguments(tmp_path, **saving), resume=True)
        file.write_bytes(whole)
    (tmp_path / "checkpoint-1" / "trainer_state.json").unlink()
    with pytest.raises(ConfigurationError, match="checkpoint-1 is incomplete"):
        train_prm(model_path, make_rows(8), args=make_arguments(tmp_path, **saving), resume=True)


@pytest.mark.parametrize(("separator", "warned"), [("=", True), ("\\n", False)])
def test_another_separator_than_the_annotations_is_warned_of(tmp_path, capsys, separator, warned):
    make_rows(4).to_parquet(tmp_path / "steps" / "annotated.parquet")
    (tmp_path / "steps" / "annotation.json").write_text(json.dumps({"separator": "\n", "model": "m"}))
    words = ["--model", str(tmp_path / "nowhere"), "--dataset", str(tmp_path / "steps"), "--output-dir", "unused"]
    assert main(["train-prm", *words, "--separator", separator]) == 2
    told = capsys.readouterr().err
    assert ("but the model is trained with '=' after each step" in told) == warned
    assert "cannot load a tokenizer" in told


def test_what_is_lost_in_tokenising_is_told(tmp_path, model_path):
    notes: list[str] = []
    rows = Dataset.from_list([check_row({"prompt": "1", "completions": ["a" * 9, "b"], "labels": [1, 0]})])
    figures = train_prm(
        model_path, rows, args=make_arguments(tmp_path, max_steps=1), max_length=11, on_note=notes.append
    )
    assert notes == [
        "training rows: 1 rows were too long and lost 1 steps; 0 rows without a labelled step within max_length were "
        "left out"
    ]
    assert (figures["train_rows"], figures["train_steps"], figures["train_truncated_rows"]) == (1, 1, 1)


def test_models_and_lengths_that_do_not_work_are_told_at_once(tmp_path, model_path):
    args = make_arguments(tmp_path / "out")
    with pytest.raises(ConfigurationError, match=r"cannot load a tokenizer from .*nowhere"):
        train_prm(str(tmp_path / "nowhere"), make_rows(2), args=args)
    with pytest.raises(ConfigurationError, match=r"max_length must be in 1\.\.256, the model's context, got 257"):
        train_prm(model_path, make_rows(2), args=args, max_length=257)
    assert not (tmp_path / "out").exists()


def test_a_classifier_is_trained_on(tmp_path, model_path):
    # Not a new head: with learning rate 0 the second training gives the first one's scores.
    train_prm(model_path, make_rows(16), args=make_arguments(tmp_path / "first", max_steps=2))
    args = make_arguments(tmp_path / "second", max_steps=1, learning_rate=0.0)
    train_prm(str(tmp_path / "first"), make_rows(16), args=args)
    rows = make_rows(5, seed=2)
    for one, other in zip(
        probabilities_of(tmp_path / "first", rows), probabilities_of(tmp_path / "second", rows), strict=True
    ):
        assert one == pytest.approx(other)


@pytest.mark.parametrize("lora", [None, LoraConfig(r=2, target_modules="all-linear")], ids=["full", "lora"])
def test_process_reward_scores_with_it(tmp_path, model_path, lora):
    # The separator is two tokens, and comes from the folder alone.
    args = make_arguments(tmp_path, max_steps=4)
    train_prm(model_path, make_rows(32), args=args, separator="=\n", peft_config=lora)
    held_out = make_rows(10, seed=1)
    scorer = ProcessReward(str(tmp_path))
    found = scorer.step_scores(held_out["prompt"], ["=\n".join(steps) for steps in held_out["completions"]])
    for one, other in zip(found, probabilities_of(tmp_path, held_out, separator="=\n"), strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    rewards = scorer(held_out["prompt"], ["=\n".join(steps) for steps in held_out["completions"]])
    assert rewards == pytest.approx([2 * min(row) - 1 for row in found])


def train_on_real_rows(files: list[Path], folder: Path) -> dict[str, float]:
    rows = load_rows(files)
    tokenizer = make_text_tokenizer([row["prompt"] + "".join(row["completions"]) + "\n" for row in rows])
    make_model(vocab_size=len(tokenizer), max_position_embeddings=1024).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    args = make_arguments(folder / "prm", max_steps=3, per_device_train_batch_size=4)
    return train_prm(str(folder / "base"), rows, rows.select(range(8)), args=args)


def test_real_rows_train(tmp_path):
    figures = train_on_real_rows([PRMBENCH], tmp_path)
    assert figures["train_rows"] == 30
    assert figures["train_steps"] == sum(len(row["completions"]) for row in read_rows(PRMBENCH))
    assert 0 < figures["eval_loss"] < 5
    assert (tmp_path / "prm" / "model.safetensors").is_file()


def test_all_real_files_train_together(tmp_path):
    names = ("process_first_error", "process_prm800k_ratings", "process_prmbench")
    files = [skip_without(SHARED / "data" / f"{name}.jsonl") for name in names]
    figures = train_on_real_rows(files, tmp_path)
    assert figures["train_rows"] == 581


def run(*words: str, cwd) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "bstar_trl.cli", "train-prm", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def test_the_command_trains_and_shows_figures(tmp_path, model_path):
    make_rows(24).to_json(tmp_path / "train.jsonl")
    make_rows(8, seed=1).to_parquet(tmp_path / "eval.parquet")
    words = ["--model", model_path, "--dataset", "train.jsonl", "--eval-dataset", "eval.parquet"]
    settings = ["--epochs", "1", "--separator", r"=\n", "--lora-r", "2", "--max-length", "30"]
    result = run(*words, "--output-dir", "out", *settings, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    shown = dict(line.split() for line in result.stdout.splitlines() if line.startswith(("step_", "first_error_f1")))
    assert float(shown["step_accuracy"]) == pytest.approx(figures["eval_step_accuracy"], abs=1e-3)
    assert AutoModelForTokenClassification.from_pretrained(tmp_path / "out").config.step_separator == "=\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "d", "--output-dir", "o"], "required: --model"),
        (["--learning-rate", "0"], "must be greater than 0, got 0"),
        (["--neutral-label", "2"], "must be in 0..1, got 2"),
        (["--epochs", "many"], "must be a number, got 'many'"),
        (["--model", "m", "--dataset", "none.jsonl", "--output-dir", "o"], "cannot read none.jsonl"),
    ],
)
def test_wrong_arguments_are_explained(tmp_path, words, message):
    result = run(*words, cwd=tmp_path)
    assert result.returncode in (1, 2)
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not any(tmp_path.iterdir())
