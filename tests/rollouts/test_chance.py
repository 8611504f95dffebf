"""How often verifiers accept wrong reasoning: what they say, and what is measured with real ones."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from accelerate import Accelerator

from bstar_trl.errors import ConfigurationError
from bstar_trl.luck import learned_factor
from bstar_trl.records import Completion, Request
from bstar_trl.rewards import AnswerMatch, MultipleChoice, UnitTests
from bstar_trl.rollouts.judging import Verifiers
from bstar_trl.rollouts.round import Sampler
from bstar_trl.rollouts.scoring import Scorer, reward_name

N, K = 40, 16


def sample(functions, rows, text_of, *, verifiers=(0,), weights=None, with_chance=True, seed=7, cut_off=frozenset()):
    """One round: `text_of(query, place)` is the response; places in `cut_off` do not end. Returns the rollouts and the
    sampler."""
    names = [reward_name(item) for item in functions]
    scorer = Scorer(
        functions,
        names,
        weights=weights or [1.0] * len(functions),
        verifiers=Verifiers.of(functions, names, verifiers, None),
        tokenizers=[None] * len(functions),
    )

    def generate(requests):
        for request in requests:
            for query in request.query_ids:
                for place in range(request.n):
                    reason = "length" if place in cut_off else "stop"
                    yield Completion(query, request.temperature, [0], [1], text_of(query, place), reason)

    sampler = Sampler(
        generate,
        scorer,
        rows,
        accelerator=Accelerator(cpu=True),
        chunk_size=64,
        trainer_state=SimpleNamespace(),
        with_chance=with_chance,
    )
    rollouts = sampler([Request(tuple(rows), 1.0, K, seed)])
    scorer.close()
    return rollouts, sampler


def masks(rollouts):
    """Who is correct, and who may be selected."""
    return rollouts.grids.correct_NK, rollouts.grids.selectable_NK


def answers(golds) -> dict[int, dict]:
    return {query: {"prompt": f"question {query}", "answer": str(gold)} for query, gold in enumerate(golds)}


def test_estimate_is_the_share_of_foreign_golds_that_are_accepted():
    """Digits as golds and guesses; expected: over all responses and all other queries, by string comparison."""
    rng = np.random.default_rng(0)
    golds = rng.choice([1, 2, 3, 4, 5], size=N, p=[0.4, 0.3, 0.1, 0.1, 0.1])
    guesses = rng.choice([1, 2, 3, 4, 5], size=(N, K), p=[0.5, 0.2, 0.1, 0.1, 0.1])
    rollouts, _ = sample(
        [AnswerMatch()], answers(golds), lambda query, place: f"So the answer is {guesses[query, place]}."
    )
    accepted = [
        np.mean([guess == golds[other] for other in range(N) if other != query])
        for query in range(N)
        for guess in guesses[query]
    ]
    (chance,) = set(rollouts.chance_R.tolist())
    error = np.std(accepted) + 0.5  # of one draw at most
    assert chance == pytest.approx(np.mean(accepted), abs=4 * error / np.sqrt(512) / 2)
    assert 0.2 < chance < 0.4


def test_equal_golds_count_and_own_golds_do_not():
    everybody, _ = sample([AnswerMatch()], answers([5] * N), lambda query, place: "5" if place else "6")
    assert everybody.chance_R[0] == pytest.approx((K - 1) / K, abs=0.05)
    nobody, _ = sample([AnswerMatch()], answers(range(N)), lambda query, place: str(query))
    assert nobody.correct_R.all()
    assert set(nobody.chance_R) == {0.0}


def test_same_seed_same_estimate_and_one_estimate_an_iteration():
    golds = np.arange(N) % 4

    def text_of(query, place):
        return str((query + place) % 5)

    (first, sampler), (second, _) = (sample([AnswerMatch()], answers(golds), text_of) for _ in range(2))
    assert first.chance_R[0] == second.chance_R[0] > 0
    later = sampler([Request((0, 1), 1.0, K, 99)])
    assert set(later.chance_R) == {first.chance_R[0]}
    other, _ = sample([AnswerMatch()], answers(golds), text_of, seed=8)
    assert other.chance_R[0] != first.chance_R[0]


def test_nothing_is_measured_where_nobody_asks():
    rollouts, _ = sample([AnswerMatch()], answers([5] * N), lambda query, place: "5", with_chance=False)
    assert set(rollouts.chance_R) == {0.0}


def test_responses_that_were_cut_off_say_nothing():
    half = frozenset(range(0, K, 2))
    rollouts, _ = sample([AnswerMatch()], answers([5] * N), lambda query, place: "65"[place in half], cut_off=half)
    assert set(rollouts.chance_R) == {0.0}
    rollouts, sampler = sample(
        [AnswerMatch()], answers([5] * N), lambda query, place: "5", cut_off=frozenset(range(K))
    )
    assert set(rollouts.chance_R) == {0.0}
    sampler.generate = lambda requests: [Completion(query, 1.0, [0], [1], "5", "stop") for query in (0, 1)]
    later = sampler([Request((0, 1), 1.0, 1, 3)])  # nothing was known before, so these are asked
    assert set(later.chance_R) == {2 / 3}


def test_no_request_is_no_response():
    _, sampler = sample([AnswerMatch()], answers([5] * N), lambda query, place: "5")
    assert len(sampler([])) == 0


def test_two_verifiers_compare_512_responses_together():
    calls = []

    def make(name):
        def count(completions, answer, verifier, **columns):
            calls.append([name] * len(completions))
            return [float(text == gold) for text, gold in zip(completions, answer, strict=True)]

        count.chance, count.__name__ = "estimate", name
        return count

    rows = {query: row | {"verifier": "ab"[query % 2]} for query, row in answers([5] * 80).items()}
    sample([make("a"), make("b")], rows, lambda query, place: "5", verifiers=(0, 1))
    assert sorted(map(len, calls))[-2:] != [512, 512]
    assert sum(map(len, calls)) == 80 * K + 512


def test_at_most_512_responses_are_compared():
    calls = []

    def count(completions, answer, **columns):
        calls.append(len(completions))
        return [float(text == gold) for text, gold in zip(completions, answer, strict=True)]

    count.chance = "estimate"
    rows = answers([5] * N)
    rollouts, _ = sample([count], rows, lambda query, place: "5")
    assert sum(calls) == N * K + 512
    assert rollouts.chance_R[0] == 512 / 513  # all were accepted; a chance of 1 would have no odds
    assert np.isfinite(learned_factor(rollouts.grids.chance_N, *masks(rollouts), trained_share=0.5))


def test_an_unjudged_first_response_does_not_hide_the_chance():
    def some(completions, **columns):
        return [None if text == "?" else 0.0 for text in completions]

    some.chance = 0.3
    rollouts, _ = sample([some], answers([1, 2]), lambda query, place: "5" if place else "?")
    assert rollouts.grids.chance_N.tolist() == [0.3, 0.3]


def test_choices_have_the_chance_of_their_row():
    rows = {query: {"prompt": "?", "answer": "A", "choices": ["x"] * (2 + query % 3)} for query in range(6)}
    rollouts, _ = sample([MultipleChoice()], rows, lambda query, place: "The answer is A.")
    expected = [1 / (2 + query % 3) for query in rollouts.query_ids_R]
    np.testing.assert_allclose(rollouts.chance_R, expected)
    plain = {0: {"prompt": "?", "answer": "C"}, 1: {"prompt": "?", "answer": "H"}}  # A to E, and A to J
    rollouts, _ = sample([MultipleChoice()], plain, lambda query, place: "A")
    np.testing.assert_allclose(rollouts.chance_R, [1 / 5] * K + [1 / 10] * K)


def test_others_have_none_unless_they_say_so():
    def right(completions, **columns):
        return [1.0] * len(completions)

    rows = answers([5, 6])
    assert set(sample([right], rows, lambda query, place: "5")[0].chance_R) == {0.0}
    right.chance = 0.3
    assert set(sample([right], rows, lambda query, place: "5")[0].chance_R) == {0.3}
    assert UnitTests.chance is None
    for wrong in (1.0, -0.1, "often"):
        right.chance = wrong
        with pytest.raises(ConfigurationError, match="the chance of reward function 'right' must be a number in"):
            sample([right], rows, lambda query, place: "5")


def test_each_verifier_has_its_own():
    rows = answers(np.arange(N) % 2) | {
        N + query: {"prompt": "?", "answer": "A", "choices": ["x", "y", "z"]} for query in range(4)
    }
    for row in rows.values():
        row.setdefault("choices", None)
        row["verifier"] = "AnswerMatch" if row["choices"] is None else "MultipleChoice"
    functions = [AnswerMatch(), MultipleChoice()]
    rollouts, _ = sample(functions, rows, lambda query, place: str(place % 2), verifiers=(0, 1))
    of_answers = rollouts.query_ids_R < N
    assert set(rollouts.chance_R[~of_answers]) == {1 / 3}
    (estimate,) = set(rollouts.chance_R[of_answers])
    assert estimate == pytest.approx(0.5, abs=0.08)


def test_steps_are_what_the_total_would_gain():
    def share(completions, **columns):
        return [float(text) for text in completions]

    def bonus(completions, **columns):
        return [0.25] * len(completions)

    texts = ["0", "0.5", "1", "1.5"]
    rollouts, _ = sample(
        [bonus, share], answers([1]), lambda query, place: texts[place % 4], verifiers=(1,), weights=[1.0, 0.5]
    )
    np.testing.assert_allclose(rollouts.rewards_R[:4], [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(rollouts.step_R[:4], [0.5, 0.25, 0.0, 0.0])
    np.testing.assert_array_equal(rollouts.correct_R[:4], [False, False, True, True])
