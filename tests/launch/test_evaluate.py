"""`bstar-trl evaluate`: models and adapters, the figures of the trainer's own evaluation, intervals."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from bstar_trl import BalanceCallback, BSTaRConfig, BSTaRTrainer
from bstar_trl.cli import main
from bstar_trl.testbed import policy_path
from bstar_trl.testbed.rewards import SumMatch
from bstar_trl.testbed.task import make_dataset

REWARDS = "[{path: bstar_trl.testbed.rewards:SumMatch}]"


@pytest.fixture
def sums(tmp_path):
    path = tmp_path / "sums.jsonl"
    rows = [{"question": row["prompt"], "answer": row["answer"]} for row in make_dataset(20, (4,))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def evaluated(tmp_path, sums, model, *words):
    path = tmp_path / "there" / "figures.json"
    given = ["--model_name_or_path", str(model), "--dataset_name", str(sums), "--rewards", REWARDS]
    given += ["--num_generations_eval", "8", "--max_completion_length", "40", "--use_cpu", "true", "--bf16", "false"]
    assert main(["evaluate", *given, "--output-file", str(path), *words]) == 0
    return json.loads(path.read_text())


def test_figures_are_those_of_the_trainer(tmp_path, sums, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = evaluated(tmp_path, sums, policy_path(), "--seed", "3", "--queries_per_iteration", "500")
    dataset = make_dataset(20, (4,))
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(policy_path()),
        AutoTokenizer.from_pretrained(policy_path()),
    )
    args = BSTaRConfig(
        str(tmp_path / "trainer"), num_generations_eval=8, seed=3, max_completion_length=40, use_cpu=True, bf16=False,
        report_to="none",
    )  # fmt: skip
    trainer = BSTaRTrainer(
        model, SumMatch(), args, dataset, dataset, processing_class=tokenizer, callbacks=[BalanceCallback()]
    )
    expected = trainer.evaluate()
    for name in ("greedy_pass@1", "pass@1", "pass@8", "pass@8-4", "reward"):
        figure = found["figures"][name]
        assert figure["mean"] == pytest.approx(expected[f"eval_{name}"], abs=1e-6)
        assert figure["low"] <= figure["mean"] <= figure["high"]
    assert found["figures"]["length"]["mean"] == pytest.approx(expected["eval_completions/mean_length"])
    assert 0 < found["figures"]["pass@1"]["mean"] < 1
    assert found["figures"]["pass@1"]["low"] < found["figures"]["pass@1"]["high"]
    assert (found["rows"], found["num_generations"], found["temperature"]) == (20, 8, 1.0)
    printed = capsys.readouterr().out
    assert printed.startswith("20 queries, 8 responses to each at temperature 1; 95 % intervals")
    for name, figure in found["figures"].items():
        assert f"{name} " in printed
        assert f"{figure['mean']:9.4f}  {figure['low']:9.4f} to {figure['high']:.4f}" in printed
    assert {item.name for item in tmp_path.iterdir()} == {"sums.jsonl", "there", "trainer"}  # nothing else is left


def test_an_adapter_is_put_upon_its_base(tmp_path, sums):
    model = AutoModelForCausalLM.from_pretrained(policy_path())
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
    adapted.peft_config["default"].base_model_name_or_path = policy_path()
    AutoTokenizer.from_pretrained(policy_path()).save_pretrained(tmp_path / "adapter")
    adapted.save_pretrained(tmp_path / "adapter")
    plain = evaluated(tmp_path, sums, policy_path())["figures"]
    assert evaluated(tmp_path, sums, tmp_path / "adapter")["figures"] == plain  # it changes nothing yet
    torch.manual_seed(0)
    for name, item in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(item, std=0.5)
    adapted.save_pretrained(tmp_path / "adapter")
    assert evaluated(tmp_path, sums, tmp_path / "adapter")["figures"]["pass@1"]["mean"] < plain["pass@1"]["mean"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output_file"], "--output_file needs a file"),
        (["--output_fil", "x"], "no option --output_fil"),
        (["--load_in_4bit", "true"], "is an adapter of nothing/there, which is not merged into a quantised model"),
        ([], "cannot load 'nothing/there', the base of the adapter"),
    ],
)
def test_wrong_words_are_told(tmp_path, sums, capsys, words, message):
    folder = tmp_path / "adapter"
    AutoTokenizer.from_pretrained(policy_path()).save_pretrained(folder)
    LoraConfig(task_type="CAUSAL_LM", base_model_name_or_path="nothing/there").save_pretrained(folder)
    assert main(["evaluate", "--model_name_or_path", str(folder), "--dataset_name", str(sums), *words]) == 2
    assert message in capsys.readouterr().err


def test_help(capsys):
    assert main(["evaluate", "--help"]) == 0
    assert "--output_file" in capsys.readouterr().out
