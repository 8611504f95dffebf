"""Several verifiers in one run, each of which judges rows of its own."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from conftest import has_digit, make_dataset, make_trainer, text_of
from datasets import Dataset
from policies import make_guesser

from bstar_trl import BalanceCallback, BSTaRTrainer
from bstar_trl.errors import ConfigurationError, DatasetError, EmptySelectionError, RewardError
from bstar_trl.rewards import AnswerMatch, MultipleChoice, RewardFn, Score, UnitTests


class Recorder(BSTaRTrainer):
    def select_responses(self, rollouts, setting):
        self.rollouts, self.selection = rollouts, super().select_responses(rollouts, setting)
        return self.selection


class Letters(RewardFn):
    """Judges the rows whose prompt begins with an even digit; refuses to be asked about others where they say so."""

    is_verifier = True
    correct_at = 0.5

    def __init__(self, *, strict: bool):
        super().__init__("letters")
        self.strict = strict

    def score(self, prompts, completions, **columns):
        mine = [int(prompt[0]) % 2 == 0 for prompt in prompts]
        assert all(mine) or not self.strict
        return [
            Score(float(any(map(str.isalpha, text))) / 2, "looked for letters") if it_is else Score(None)
            for text, it_is in zip(completions, mine, strict=True)
        ]


def odd(prompts, completions, **kwargs):
    """Judges the other rows."""
    judged = has_digit(completions)
    return [value if int(prompt[0]) % 2 else None for prompt, value in zip(prompts, judged, strict=True)]


def everything(completions, **kwargs):
    return has_digit(completions)


def length(completions, **kwargs):
    return [len(text_of(item)) / 100 for item in completions]


def make_mixture():
    rows = make_dataset()
    return rows.add_column("verifier", ["odd" if int(prompt[0]) % 2 else "letters" for prompt in rows["prompt"]])


@pytest.mark.parametrize("by_column", [True, False])
def test_each_row_is_judged_by_its_own_verifier(tmp_path, model_path, by_column):
    rewards = [length, Letters(strict=by_column), odd]
    trainer = make_trainer(
        tmp_path,
        model_path,
        trainer=Recorder,
        reward_funcs=rewards,
        verifier=["odd", "letters"],
        train_dataset=make_mixture() if by_column else make_dataset(),
        eval_dataset=make_mixture().select(range(4)),
        num_train_epochs=1,
        callbacks=[BalanceCallback(0.7, allocation="fixed")],
    )
    trainer.train()
    rollouts = trainer.rollouts
    texts = [item.text for item in rollouts.reader.read(rollouts.rows_R)]
    evens = [int(trainer.queries[query]["prompt"][0]) % 2 == 0 for query in rollouts.query_ids_R.tolist()]
    expected = [
        any(map(str.isalpha, text)) if even else any(map(str.isdigit, text[:4]))
        for text, even in zip(texts, evens, strict=True)
    ]
    assert rollouts.correct_R.tolist() == expected
    assert rollouts.judged_R.all()
    assert np.isnan(rollouts.values_RF[evens, 2]).all()
    assert np.isnan(rollouts.values_RF[~np.array(evens), 1]).all()
    assert {reason for reason, even in zip(rollouts.reasons_R, evens, strict=True) if even} == {"looked for letters"}
    logged = trainer.state.log_history[-2]
    for name, mine in (("letters", np.array(evens)), ("odd", ~np.array(evens))):
        assert logged[f"explore/pass@1/{name}"] == pytest.approx(np.array(expected)[mine].mean())
        per_query = [
            np.array(expected)[rollouts.query_ids_R == query].any() for query in set(rollouts.query_ids_R[mine])
        ]
        assert logged[f"explore/pass@3/{name}"] == pytest.approx(np.mean(per_query))
        chosen = np.isin(rollouts.rows_R, trainer.selection.rollouts.rows_R)
        assert logged[f"select/samples/{name}"] == (chosen & mine).sum()
    figures = trainer.evaluate()
    for name in ("letters", "odd"):
        assert {f"eval_pass@1/{name}", f"eval_greedy_pass@1/{name}", f"eval_pass@3/{name}"} <= figures.keys()
    assert figures["eval_pass@1"] == pytest.approx(  # rows 0 and 2 are even
        (figures["eval_pass@1/letters"] + figures["eval_pass@1/odd"]) / 2
    )


def test_rounds_with_several_verifiers_on_a_stream(tmp_path, model_path):
    """Figures of each verifier are about the queries that get K responses in any case, and first rounds."""
    rows = make_dataset(90)
    rows = rows.add_column("verifier", ["odd" if int(prompt[0]) % 2 else "letters" for prompt in rows["prompt"]])
    trainer = make_trainer(
        tmp_path,
        model_path,
        trainer=Recorder,
        reward_funcs=[length, Letters(strict=True), odd],
        verifier=["odd", "letters"],
        train_dataset=rows.to_iterable_dataset(),
        callbacks=[BalanceCallback((0.7, 1.1), num_queries=8, allocation="rounds")],
        queries_per_iteration=40,
        balance_target=2.0,
        num_generations=8,
        max_steps=6,
        iteration_steps=3,
    )
    trainer.train()
    rollouts, balance = trainer.rollouts, trainer.balance.history[-1]
    assert balance["balance/saved_completions"] == 40 * 8 - len(rollouts) > 0
    logged = trainer.state.log_history[-2]
    queries = list(dict.fromkeys(rollouts.query_ids_R.tolist()))  # slices, even queries, rounds
    assert len(queries) == 40
    at_winner = rollouts.temperatures_R == balance["balance/temperature"]
    for name, remainder in (("letters", 0), ("odd", 1)):
        first = []
        in_slice = len(set(rollouts.query_ids_R[at_winner].tolist()) & set(queries[:8]))
        in_rounds = queries[8 + 24 - in_slice :]
        for query in queries:
            if int(trainer.queries[query]["prompt"][0]) % 2 == remainder:
                mine = rollouts.correct_R[at_winner & (rollouts.query_ids_R == query)]
                first.extend(mine[:4] if query in in_rounds else mine)
        assert logged[f"explore/pass@1/{name}"] == pytest.approx(np.mean(first))
        assert f"explore/pass@8/{name}" in logged


def test_two_verifiers_of_one_row_are_an_error(tmp_path, model_path):
    trainer = make_trainer(tmp_path, model_path, reward_funcs=[everything, odd], verifier=["everything", "odd"])
    with pytest.raises(RewardError, match=r"'everything' and 'odd' both judge query.*column 'verifier'"):
        trainer.train()


def test_the_column_decides_between_verifiers_that_judge_everything(tmp_path, model_path):
    rows = make_dataset()
    rows = rows.add_column("verifier", ["everything", "always"] * 8 + [None])

    def always(prompts, completions, **kwargs):
        return [None if prompt == rows[16]["prompt"] else 1.0 for prompt in prompts]

    trainer = make_trainer(
        tmp_path,
        model_path,
        trainer=Recorder,
        reward_funcs=[everything, always],
        verifier=["everything", "always"],
        train_dataset=rows,
        max_steps=1,
    )
    trainer.train()
    rollouts = trainer.rollouts
    always_judged = (rollouts.query_ids_R % 2 == 1) & (rollouts.query_ids_R < 16)
    assert rollouts.correct_R[always_judged].all()
    assert not rollouts.correct_R[~always_judged].all()


def test_an_unknown_name_is_found_before_any_weight_is_loaded(tmp_path):
    rows = make_dataset(50).add_column("verifier", ["odd"] * 49 + ["even"])
    with pytest.raises(DatasetError, match=r"one of the verifiers \(odd, everything\) or None, got 'even'"):
        make_trainer(
            tmp_path,
            "no/such-model",
            reward_funcs=[odd, everything],
            verifier=["odd", "everything"],
            train_dataset=rows,
        )


def test_rows_of_no_verifier_are_unjudged(tmp_path, model_path):
    """AnswerMatch has no gold answer anywhere, and the other judges half of the rows."""
    rows = make_dataset().remove_columns("answer").add_column("answer", [None] * 17)
    trainer = make_trainer(
        tmp_path,
        model_path,
        trainer=Recorder,
        reward_funcs=[odd, AnswerMatch()],
        verifier=["odd", "AnswerMatch"],
        train_dataset=rows,
        max_steps=1,
    )
    trainer.train()
    evens = np.array([int(trainer.queries[query]["prompt"][0]) % 2 == 0 for query in trainer.rollouts.query_ids_R])
    assert (trainer.rollouts.judged_R == ~evens).all()


def test_the_package_s_verifiers_leave_the_rows_of_others_alone(tmp_path):
    """A program answers one row, a choice another, a number the third; no column says which."""
    path = str(tmp_path / "policy")
    prompts = ["Double n.", "1 + 1 = ?", "Red or blue?"]
    make_guesser(path, prompts)
    rows = Dataset.from_list(
        [
            {"prompt": prompts[0], "answer": None, "choice": None, "tests": ["assert double(2) == 4"]},
            {"prompt": prompts[1], "answer": "2", "choice": None, "tests": None},
            {"prompt": prompts[2], "answer": None, "choice": "A", "tests": None},
        ]
    )
    names = ["math", "choice", "code"]
    rewards = [AnswerMatch(name="math"), MultipleChoice("choice", name="choice"), UnitTests(name="code")]
    args = {"reward_funcs": rewards, "verifier": names, "train_dataset": rows, "num_generations": 4}
    trainer = make_trainer(tmp_path, path, trainer=Recorder, max_steps=1, **args)
    with contextlib.suppress(EmptySelectionError):
        trainer.train()
    for row, mine in enumerate(("code", "math", "choice")):
        values = trainer.rollouts.values_RF[trainer.rollouts.query_ids_R == row]
        assert [name for name, column in zip(names, values.T, strict=True) if not np.isnan(column).all()] == [mine]


def test_the_column_of_judges_must_not_be_taken_away(tmp_path):
    with pytest.raises(DatasetError, match=r"'verifier' of the training dataset says who.*remove_unused_columns"):
        make_trainer(
            tmp_path,
            "no/such-model",
            reward_funcs=[odd, everything],
            verifier=["odd", "everything"],
            train_dataset=make_mixture().remove_columns("answer"),
            remove_unused_columns=True,
        )


def test_a_verifier_that_calls_nothing_correct_trains_nothing(tmp_path, model_path):
    """Its rows have the higher rewards by another reward; those of the other verifier alone are trained on."""

    def hopeless(completions, **kwargs):
        return [0.0] * len(completions)

    def bonus(completions, verifier, **kwargs):
        return [2.0 * (name == "hopeless") for name in verifier]

    rows = make_dataset().add_column("verifier", ["everything", "hopeless"] * 8 + ["everything"])
    trainer = make_trainer(
        tmp_path,
        model_path,
        trainer=Recorder,
        reward_funcs=[everything, hopeless, bonus],
        verifier=["everything", "hopeless"],
        train_dataset=rows,
        max_steps=1,
    )
    trainer.train()
    chosen = trainer.selection.rollouts
    assert len(chosen)
    assert (chosen.query_ids_R % 2 == 0).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"odd": 0.5, "other": 1.0}, "by the names of verifiers"),
        ("high", "must be a number"),
        ({"odd": "1"}, "got"),
    ],
)
def test_limits_by_name(tmp_path, model_path, given, message):
    settings = {"reward_funcs": [odd, Letters(strict=False)], "verifier": ["odd", "letters"]}
    with pytest.raises(ConfigurationError, match=message):
        make_trainer(tmp_path, "no/such-model", correct_at=given, **settings)
    trainer = make_trainer(tmp_path, model_path, correct_at={"odd": 0.25}, **settings)
    assert trainer.scorer.verifiers.limits == (0.25, 0.5)


def test_nothing_is_trained_where_no_response_is_correct(tmp_path, model_path):
    """Another reward is positive, so wrong responses exceed the threshold; they are not trained on."""

    def half(completions, **kwargs):
        return [value / 2 for value in has_digit(completions)]

    trainer = make_trainer(tmp_path, model_path, reward_funcs=[half, length], verifier="half", weight_decay=0.1)
    before = {name: item.detach().clone() for name, item in trainer.model.named_parameters()}
    message = "no response of 51 was correct.*values of 'half' lie between 0 and 0.5, and correct is at least 1"
    with pytest.raises(EmptySelectionError, match=message):
        trainer.train()
    assert all((before[name] == item).all() for name, item in trainer.model.named_parameters())
