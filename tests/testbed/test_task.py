"""The task's two truths, the sums and their split."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bstar_trl.errors import ConfigurationError
from bstar_trl.testbed import task


def all_chains(terms: list[int]) -> set[str]:
    """Every valid chain, by trying every order of merging."""
    if len(terms) == 1:
        return {""}
    chains = set()
    for place in range(len(terms) - 1):
        merged = [*terms[:place], (terms[place] + terms[place + 1]) % 10, *terms[place + 2 :]]
        head = "+".join(map(str, merged))
        chains |= {head + ("=" + rest if rest else "") for rest in all_chains(merged)}
    return chains


@pytest.mark.parametrize(("terms", "count"), [([7, 1, 5, 9, 8], 24), ([1, 2, 3, 4, 5, 6], 120)])
def test_valid_chains_are_those_of_every_merging_order(terms, count):
    prompt = task.prompt_of(terms)
    chains = all_chains(terms)
    assert len(chains) == count  # (terms - 1)! of them
    assert all(task.is_valid(prompt, chain) for chain in chains)
    assert {task.answer_of(chain) for chain in chains} == {task.answer_to(terms)}
    rng = np.random.default_rng(0)
    assert {task.random_chain(rng, terms) for _ in range(2000)} == chains


def test_a_chain_with_any_character_changed_is_not_valid():
    prompt, chain = "7+1+5+9+8=", "8+5+9+8=3+9+8=2+8=0"
    assert task.is_valid(prompt, chain)
    for place, letter in itertools.product(range(len(chain)), "0123456789+="):
        changed = chain[:place] + letter + chain[place + 1 :]
        assert task.is_valid(prompt, changed) == (changed == chain)


@pytest.mark.parametrize(
    "response",
    ["", "0", "8+5+9+8", "8+5+9+8=", "8+5+9+8=3+9+8=2+8=0=", "8+5+9+8=3+9+8=2+8=0=0", "8+5+9+8=0", " 0", "=0"],
)
def test_what_skips_stops_short_or_goes_on_is_not_valid(response):
    assert not task.is_valid("7+1+5+9+8=", response)


@pytest.mark.parametrize(
    ("response", "answer"), [("8+8=6", "6"), ("6", "6"), ("", None), ("8+8=", None), ("8+8=16", None), ("1=a", None)]
)
def test_the_answer_is_the_last_digit(response, answer):
    assert task.answer_of(response) == answer


def test_right_answers_by_wrong_chains_are_right_and_not_valid():
    assert task.answer_of("1+1+1+1=0") == task.answer_to([7, 1, 5, 9, 8]) == "0"
    assert not task.is_valid("7+1+5+9+8=", "1+1+1+1=0")


def test_training_and_held_out_sums_never_meet():
    train = {prompt for seed in range(3) for prompt in task.draw_prompts(3000, (5, 6), seed=seed)}
    held_out = set(task.draw_prompts(3000, (5, 6), seed=0, held_out=True))
    assert len(held_out) == 3000
    assert not train & held_out
    assert sum(map(task.is_held_out, {task.prompt_of(terms) for terms in itertools.product(range(10), repeat=4)})) == (
        pytest.approx(1000, rel=0.15)
    )


def test_the_mix_is_kept_and_the_seed_decides():
    prompts = task.draw_prompts(900, (5, 5, 6), seed=1)
    lengths = [len(task.terms_of(prompt)) for prompt in prompts]
    assert (lengths.count(5), lengths.count(6)) == (600, 300)
    assert prompts == task.draw_prompts(900, (5, 5, 6), seed=1)
    assert prompts != task.draw_prompts(900, (5, 5, 6), seed=2)
    dataset = task.make_dataset(30, seed=1)
    assert dataset.column_names == ["prompt", "answer"]
    assert dataset["answer"][0] == str(sum(task.terms_of(dataset["prompt"][0])) % 10)


def test_more_sums_than_there_are_is_an_error():
    with pytest.raises(ConfigurationError, match="100 distinct sums of 2 terms"):
        task.draw_prompts(100, (2,), seed=0)
