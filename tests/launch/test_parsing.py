"""What is typed and what a YAML file holds: read as one, wrong keys and values told before anything is loaded."""

from __future__ import annotations

import dataclasses
import os

import pytest
from transformers import TrainingArguments
from trl import GRPOConfig

from bstar_trl import BalanceCallback, BSTaRConfig
from bstar_trl.cli.train import ABOUT, EXAMPLE, USAGE, options_text
from bstar_trl.errors import ConfigurationError
from bstar_trl.launch.parsing import GROUPS, parse
from bstar_trl.launch.train import balance_of
from bstar_trl.options import BalanceOptions
from bstar_trl.rewards import AnswerMatch, MultipleChoice

NEEDED = ["--model_name_or_path", "model", "--dataset_name", "rows.jsonl", "--output_dir", "out"]


@pytest.fixture
def config(tmp_path):
    def write(text: str) -> str:
        (tmp_path / "config.yaml").write_text(text)
        return str(tmp_path / "config.yaml")

    return write


def test_typed_words_override_the_file(config):
    path = config(
        "model_name_or_path: model\ndataset_name: rows.jsonl\noutput_dir: out\nnum_generations: 6\n"
        "learning_rate: 3e-4\ntemperatures: [0.5, 1]\nsmooth: false\nprompt_template: '- {question}'\n"
        "chat_template_kwargs: {enable_thinking: false}\ncorrect_at: null\nsave_strategy: no\nbf16: False\n"
        "thresholds: [-0.5]\n"
        "rewards:\n- name: answer_match\n  column: gold\n- path: os.path:join\n  weight: 0.5\n"
    )
    options = parse([path, "--num_generations", "4"])
    assert options.args.num_generations == 4
    assert options.args.learning_rate == 3e-4  # YAML takes it for text
    assert options.args.chat_template_kwargs == {"enable_thinking": False}
    assert (options.balance.temperatures, options.balance.thresholds) == ([0.5, 1.0], [-0.5])
    assert options.balance.smooth is False
    assert options.args.save_strategy == "no"
    assert options.args.bf16 is False
    assert options.data.prompt_template == "- {question}"
    answer, join = options.rewards.functions
    assert isinstance(answer, AnswerMatch)
    assert answer.column == "gold"
    assert join is os.path.join
    assert options.rewards.weights == [1.0, 0.5]
    assert parse(["--config", path]).args.num_generations == 6
    assert parse([f"--config={path}"]).args.num_generations == 6


def test_what_is_not_set_fits_adapters(config):
    options = parse(NEEDED)
    assert options.model.use_peft
    assert options.model.lora_target_modules == "all-linear"
    assert options.args.learning_rate == 1e-4
    assert isinstance(options.rewards.functions[0], AnswerMatch)
    assert options.rewards.weights is None
    assert parse([*NEEDED, "--use_peft", "false"]).args.learning_rate == BSTaRConfig.learning_rate == 2e-5
    assert parse([*NEEDED, "--learning_rate", "3e-6"]).args.learning_rate == 3e-6
    assert parse([*NEEDED, "--verifier", "0"]).args.verifier == 0
    assert isinstance(parse([*NEEDED, "--rewards", "[{name: multiple_choice}]"]).rewards.functions[0], MultipleChoice)


def test_the_file_sets_variables(config, monkeypatch):
    monkeypatch.delenv("BSTAR_TEST_VARIABLE", raising=False)
    parse([config("env:\n  BSTAR_TEST_VARIABLE: 3\n"), *NEEDED])
    assert os.environ.pop("BSTAR_TEST_VARIABLE") == "3"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lerning_rate", "1"], r"no option --lerning_rate \(did you mean 'learning_rate'\?\)"),
        (["--temperature_s=1"], r"no option --temperature_s \(did you mean 'temperatures'\?\)"),
        (["--max_steps", "ten"], "--max_steps.*invalid int value: 'ten'"),
        (["--max_steps"], "--max_steps.*expected one argument"),
        (["--inheritance", "offline"], "--inheritance: invalid choice: 'offline'"),
        (["--num_generations", "1"], "num_generations .K. must be at least 2, got 1"),
        (["--rewards", "[{name:", "answer}]"], "'answer}]' belongs to no option"),
        (["--rewards", "[{name"], "rewards is no YAML"),
        (["--rewards", "answer_match"], "rewards must be a list like"),
        (["--rewards", "[]"], "rewards must be a list like"),
        (["--rewards", "[answer_match]"], "entry 1: must have one of name, path and model"),
        (["--rewards", "[{name: answer, path: a:b}]"], "entry 1: must have one of name, path and model"),
        (["--rewards", "[{name: answer_mtch}]"], r"no reward 'answer_mtch' \(did you mean 'answer_match'\?\)"),
        (["--rewards", "[{name: answer, colum: x}]"], r"no argument 'colum' \(did you mean 'column'\?\)"),
        (["--rewards", "[{name: answer, weight: high}]"], "weight must be a number, got 'high'"),
        (["--rewards", "[{name: process_reward}]"], "needs model"),
        (["--rewards", "[{model: x, format: y}]"], "a reward model takes a weight alone, got format"),
        (["--rewards", "[{path: nothing_here:x}]"], "cannot import 'nothing_here:x'"),
        (["--rewards", "[{path: os}]"], "a path is module:attribute"),
        (["--rewards", "[{path: no_file.py:x}]"], "cannot import 'no_file.py:x'"),
        (["--config"], "--config needs a file"),
    ],
)
def test_wrong_words_are_told(words, message):
    with pytest.raises(ConfigurationError, match=message):
        parse([*NEEDED, *words])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lerning_rate: 1", r"config.yaml: there is no key 'lerning_rate' \(did you mean 'learning_rate'\?\)"),
        ("max_steps: 1.5", "--max_steps.*invalid int value: '1.5'"),
        ("- a\n- b", "must hold lines like 'key: value'"),
        ("a: [", "is no YAML"),
        ("env: 3", "env must hold lines like 'NAME: value', got 3"),
        ("dataset_name: rows.jsonl", "model_name_or_path is missing"),
        ("model_name_or_path: model", "dataset_name is missing"),
    ],
)
def test_wrong_files_are_told(config, text, message):
    with pytest.raises(ConfigurationError, match=message):
        parse([config(text)])


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigurationError, match=r"no configuration file .*nothing\.yaml"):
        parse([str(tmp_path / "nothing.yaml")])


def test_no_option_has_two_meanings():
    names = [item.name for group in GROUPS for item in dataclasses.fields(group) if item.init]
    assert {name for name in names if names.count(name) > 1} == set()


def test_the_callback_gets_what_is_set():
    balance = balance_of(BalanceOptions(temperatures=[0.5, 1.0], search="grid", chance="0.25", thresholds=[0.0]))
    assert (balance.chance, balance.thresholds, balance._given_search) == (0.25, (0.0,), "grid")
    assert vars(balance_of(BalanceOptions())) == vars(BalanceCallback())
    assert vars(balance_of(BalanceOptions(paper=True, search_queries=5))) == vars(BalanceCallback.paper(num_queries=5))
    with pytest.raises(ConfigurationError, match="paper=true sets allocation itself"):
        balance_of(BalanceOptions(paper=True, allocation="rounds"))
    with pytest.raises(ConfigurationError, match="chance must be a number"):
        balance_of(BalanceOptions(chance="high"))


@pytest.mark.parametrize("width", [40, 80, 200])
def test_help_names_every_option_of_ours(width):
    text = options_text(USAGE, ABOUT, EXAMPLE, width)
    assert max(len(line) for line in text.splitlines() if "bstar-trl train" not in line) <= max(60, width)
    ours = {item.name for group in GROUPS[:3] for item in dataclasses.fields(group)}
    ours |= {item.name for item in dataclasses.fields(BSTaRConfig)} - {
        item.name for item in dataclasses.fields(GRPOConfig)
    }
    assert {name for name in ours if f"  --{name} " not in text and f"  --{name}\n" not in text} == set()


def test_help_tells_the_defaults_of_trl():
    options = parse([*NEEDED, "--use_peft", "false"])
    text = options_text(USAGE, ABOUT, EXAMPLE, 100)
    (line,) = [line for line in text.splitlines() if line.startswith("  --num_generations ")]
    assert f"(default: {options.args.num_generations})" in line
    assert TrainingArguments.num_train_epochs == 3  # as the line of max_steps says


def test_several_verifiers(config):
    rewards = "rewards:\n- {name: answer_match, label: math}\n- {name: unit_tests, label: code}\n"
    path = config(rewards + "verifier: [math, code]\ncorrect_at: {code: 0.5}\n")
    options = parse([path, *NEEDED])
    assert options.args.verifier == ["math", "code"]
    assert options.args.correct_at == {"code": 0.5}
    assert [item.name for item in options.rewards.functions] == ["math", "code"]
    assert parse([path, *NEEDED, "--verifier", "[0, code]"]).args.verifier == [0, "code"]
    with pytest.raises(ConfigurationError, match="a reward model takes a weight alone, got name"):
        parse([*NEEDED, "--rewards", "[{model: folder, label: x}]"])
