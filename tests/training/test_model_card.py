"""The model card, and the table that a run prints: what they say is what was logged."""

from __future__ import annotations

import pytest
from conftest import has_digit, make_chat_dataset, make_dataset, make_trainer
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer

from bstar_trl import BalanceCallback, LiveTable
from bstar_trl.errors import ConfigurationError


def length(completions, **kwargs):
    return [len(text) / 100 for text in completions]


def make(folder, model_path, **changes):
    settings = {
        "reward_funcs": [has_digit, length],
        "reward_weights": [1.0, 0.5],
        "verifier": "has_digit",
        "callbacks": [BalanceCallback([0.7, 1.1], num_queries=4), LiveTable()],
        "num_generations": 6,
        "queries_per_iteration": 8,
        "per_device_train_batch_size": 8,
        "iteration_steps": 3,
        "max_steps": 6,
        **changes,
    }
    return make_trainer(folder, model_path, **settings)


def lines_of(markdown: str, title: str) -> list[list[str]]:
    """The cells of the table below a title, without its rule."""
    table = markdown.split(f"### {title}\n\n")[1].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in (table[0], *table[2:])]


def test_what_was_logged_is_printed_and_stands_in_the_card(tmp_path, model_path, capsys):
    trainer = make(
        tmp_path / "my-run",
        model_path,
        callbacks=[BalanceCallback([0.7, 1.1], num_queries=4), LiveTable(curves=tmp_path / "curves.png")],
        eval_dataset={"odd": make_dataset(4)},
        eval_strategy="steps",
        eval_steps=3,
        eval_on_start=True,
        logging_steps=1,
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"),
    )
    trainer.train()
    printed = capsys.readouterr().out
    trainer.create_model_card()
    card = (tmp_path / "my-run" / "README.md").read_text()
    log = trainer.state.log_history
    ends = [line for line in log if line.get("loss") is not None and line["step"] in (3, 6)]
    evaluated = [line for line in log if "eval_odd_pass@1" in line]
    assert (len(ends), len(evaluated)) == (2, 3)

    titles, *rows = lines_of(card, "Iterations")
    names = {
        "temperature": ("balance/temperature", 2),
        "threshold": ("balance/threshold", 2),
        "balance score": ("balance/score", 3),
        "pass@1": ("explore/pass@1", 3),
        "pass@6": ("explore/pass@6", 3),
        "selected": ("select/samples", 0),
        "sampled": ("explore/completions", 0),
    }
    assert [row[0] for row in rows] == ["1", "2"]
    for title, (name, digits) in names.items():
        assert [row[titles.index(title)] for row in rows] == [f"{line[name]:.{digits}f}" for line in ends]
    titles, *rows = lines_of(card, "Evaluation")
    assert titles == ["after iteration", "odd greedy", "odd pass@1", "odd pass@6"]
    assert [row[0] for row in rows] == ["start", "1", "2"]
    assert [row[3] for row in rows] == [f"{line['eval_odd_pass@6']:.3f}" for line in evaluated]

    for text in (
        "# Model Card for my-run",
        "fine-tuned version of tiny-policy",
        "- **Base**: tiny-policy",
        "- **Trained**: an adapter (LORA of rank 4)",
        "- **Data**: 17 rows",
        "- **Prompts**: plain text",
        "- **Rewards**: has_digit (weight 1, the verifier), length (weight 0.5)",
        "- **Temperature**: chosen in every iteration among 0.7, 1.1",
        "8 queries, at most 6 responses to each, 24 selected responses wanted (3 per query), 3 optimizer steps of 8",
        "- bstar-trl: ",
        "generator(question, max_new_tokens",
    ):
        assert text in card
    assert "None" not in card

    table = [line for line in printed.splitlines() if line.split()[:1] in (["iteration"], ["start"], ["1"], ["2"])]
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    assert [line.split()[0] for line in table] == ["iteration", "start", "1", "2"]
    assert [line.split()[-1] for line in table[1:]] == [f"{line['eval_odd_pass@6']:.3f}" for line in evaluated]
    assert [line.split()[1] for line in table[2:]] == [f"{line['balance/temperature']:.2f}" for line in ends]


def test_every_training_has_a_table_of_its_own(tmp_path, model_path, capsys):
    """The class in place of an instance, a table that comes later, and a second training."""
    for later in (False, True):
        trainer = make(tmp_path, model_path, callbacks=[] if later else [LiveTable], max_steps=3)
        if later:
            trainer.add_callback(LiveTable())
        for _ in range(2):
            trainer.train()
            lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.split()]
            assert [line[0] for line in lines if line[0] in ("iteration", "1")] == ["iteration", "1"]


def test_a_run_without_a_log_has_no_table(tmp_path, model_path, capsys, caplog):
    curves = tmp_path / "curves.png"
    trainer = make(
        tmp_path / "out", model_path, callbacks=[LiveTable(curves=curves)], logging_strategy="no", max_steps=3
    )
    trainer.train()
    assert "LiveTable has nothing to print" in caplog.text
    assert "iteration  " not in capsys.readouterr().out
    assert not curves.exists()


def test_a_card_before_the_training_and_of_a_named_dataset(tmp_path, model_path):
    trainer = make(tmp_path / "my-run", model_path, callbacks=[BalanceCallback(0.7, thresholds=0.5)])
    trainer.create_model_card(model_name="sums", dataset_name="someone/sums", tags="arithmetic")
    card = (tmp_path / "my-run" / "README.md").read_text()
    assert "- **Temperature**: always 0.7\n- **Threshold**: always 0.5" in card
    assert "- **Data**: someone/sums, 17 rows" in card
    assert "- **Trained**: all weights" in card
    assert "### Iterations\n\nNone was logged." in card
    assert "### Evaluation" not in card
    assert "- arithmetic" in card.split("---")[1]


def test_names_of_folders_and_datasets_do_not_break_the_card(tmp_path, model_path):
    chats = make_chat_dataset()
    trainer = make(
        f"{tmp_path}/out/",
        model_path,
        callbacks=[BalanceCallback(0.7)],
        train_dataset=chats,
        eval_dataset={"a|b": chats.select(range(3))},
        eval_strategy="steps",
        eval_steps=3,
        max_steps=3,
    )
    trainer.train()
    trainer.create_model_card()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# Model Card for out\n" in card
    assert "- **Prompts**: conversations" in card
    assert 'generator([{"role": "user", "content": question}]' in card
    assert r"| after iteration | a\|b greedy | a\|b pass@1 | a\|b pass@6 |" in card


def test_the_table_is_for_this_trainer(tmp_path, model_path):
    args = GRPOConfig(output_dir=str(tmp_path), report_to="none", bf16=False, num_generations=2, max_steps=1)
    trainer = GRPOTrainer(model_path, has_digit, args, make_dataset(), callbacks=[LiveTable()])
    with pytest.raises(ConfigurationError, match="BSTaRTrainer alone"):
        trainer.train()
