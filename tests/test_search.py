"""The search for a temperature, on simulated and recorded responses."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import DATA, SHARED, skip_without

from bstar_trl.balance import best_threshold
from bstar_trl.errors import ConfigurationError
from bstar_trl.search import Observed, Prior, find_setting
from bstar_trl.selection import selectable_mask

TEMPERATURES = (0.4, 0.6, 0.8, 1.0, 1.2, 1.4)
K = 8
TARGET = 6.0


class World:
    """At temperature T a response is correct with chance `chance(T)`, higher for easy queries."""

    def __init__(self, chance, seed: int = 0):
        self.chance = chance
        self.rng = np.random.default_rng(seed)
        self.calls: list[list] = []

    def __call__(self, slices):
        self.calls.append(slices)
        answers = []
        for temperature, ids in slices:
            ease = np.array([(index % 5) / 4 for index in ids])[:, None]
            correct = self.rng.random((len(ids), K)) < self.chance(temperature) * (0.5 + ease)
            answers.append((correct.astype(float), correct, np.ones_like(correct)))
        return answers


def peak(at: float):
    return lambda temperature: 0.6 - 0.8 * (temperature - at) ** 2


def search(world, *, prior=None, seed=0, temperatures=TEMPERATURES, **options):
    options = {"num_queries": 60, "num_generations": K, "target": TARGET, "budget": 60 * K, **options}
    return find_setting(world, temperatures, rng=np.random.default_rng(seed), prior=prior, **options)


@pytest.mark.parametrize("queries", [6, 20, 61])
def test_slices_ask_for_each_query_once(queries):
    world = World(peak(0.8))
    result = search(world, num_queries=queries, budget=60 * K + 3)
    (slices,) = world.calls
    asked = [index for _, ids in slices for index in ids]
    assert [temperature for temperature, _ in slices] == list(TEMPERATURES)
    assert len(asked) == len(set(asked)) == min(queries, 60)
    assert set(asked) <= set(range(queries))
    sizes = [len(ids) for _, ids in slices]
    assert max(sizes) - min(sizes) <= 1
    assert result.completions == len(asked) * K


def test_paired_queries_serve_every_temperature_within_the_budget():
    world = World(peak(0.8))
    result = search(world, disjoint=False, budget=6 * 9 * K + 5)
    (slices,) = world.calls
    assert {len(ids) for _, ids in slices} == {9}
    assert len({ids for _, ids in slices}) == 1
    assert result.completions == 6 * 9 * K


def test_all_temperatures_are_judged_at_one_threshold():
    """The paper's best for all of their responses, whatever the chance; unless nothing is smoothed."""

    class Scored(World):
        def __call__(self, slices):
            answers = super().__call__(slices)
            self.answers = [(item + self.rng.normal(0, 0.5, item.shape), right, may) for item, right, may in answers]
            return self.answers

    for chance in (0.0, 0.3):
        world = Scored(peak(0.8))
        setting = search(world, chance=chance).setting
        rewards, correct, _ = (np.concatenate(column) for column in zip(*world.answers, strict=True))

        def score(threshold, rewards=rewards, correct=correct):
            kept = rewards > threshold
            right = (kept & correct).sum(axis=1)
            return (np.minimum(right / TARGET, 1) * right / np.maximum(kept.sum(axis=1), 1)).mean()

        assert score(setting.threshold) == pytest.approx(max(score(value - 1e-9) for value in rewards.ravel()))
        world = Scored(peak(0.8))
        setting = search(world, chance=chance, smooth=False).setting
        mine = world.answers[TEMPERATURES.index(setting.temperature)]
        assert setting.threshold == best_threshold(mine[0], mine[1], TARGET, chance=chance)[0]


def test_smoothing_loses_less_than_the_plain_maximum():
    """Sixty searches on ten queries a temperature, where the curve is shallow."""

    def shallow(temperature):
        return 0.5 - 0.25 * (temperature - 0.8) ** 2

    lost = {}
    for smooth in (True, False):
        chosen = [search(World(shallow, seed), seed=seed, smooth=smooth).setting.temperature for seed in range(60)]
        lost[smooth] = np.mean([shallow(0.8) - shallow(temperature) for temperature in chosen])
    assert lost[True] < 0.75 * lost[False]


def test_a_cliff_is_not_smoothed_away():
    """Above 1.0 nothing is right: those below lose little by such neighbours."""
    chosen = []
    for seed in range(20):
        world = World(lambda temperature: 0.3 + 0.3 * temperature if temperature <= 1.0 else 0.0, seed)
        chosen.append(search(world, seed=seed, disjoint=False, budget=6 * 30 * K).setting.temperature)
    assert set(chosen) <= {0.8, 1.0}
    assert chosen.count(1.0) >= 10


def test_unsmoothed_is_the_papers_maximum():
    for seed in range(20):
        seen = []

        def sample(slices, seed=seed, seen=seen):
            seen.extend(World(peak(1.0), seed)(slices))
            return seen

        result = search(sample, disjoint=False, budget=6 * 10 * K, smooth=False)
        scores = []
        for _, correct, _ in seen:
            n = correct.sum(axis=1)
            scores.append(np.mean(np.minimum(n / TARGET, 1) * (n > 0)))  # all wrong ones lie below the threshold
        assert result.curve == pytest.approx(scores)
        first = next(index for index, score in enumerate(scores) if score >= max(scores) - 1e-12)
        assert result.setting.temperature == TEMPERATURES[first]
        assert result.setting.score == pytest.approx(max(scores))


def test_curve_lies_within_its_standard_errors():
    """Of many searches, the true score lies within two standard errors nearly always."""
    truth = []
    for temperature in TEMPERATURES:
        ((rewards, correct, _),) = World(peak(0.8), 99)([(temperature, tuple(range(20_000)))])
        truth.append(best_threshold(rewards, correct, TARGET)[1])
    for disjoint, budget in ((True, 60 * K), (False, 6 * 10 * K)):
        inside = []
        for seed in range(60):
            result = search(World(peak(0.8), seed), seed=seed, disjoint=disjoint, budget=budget)
            inside.append(np.abs(result.curve - truth) < 2 * result.standard_error)
        assert np.mean(inside) > 0.85


def test_last_curve_helps_and_noise_does_not_move_the_temperature():
    prior = search(World(peak(0.8)), num_queries=600, budget=600 * K).prior
    assert prior.temperature == 0.8
    flat = World(lambda temperature: 0.5)
    kept, without = (
        np.mean([search(flat, prior=item, seed=seed).setting.temperature == 0.8 for seed in range(40)])
        for item in (prior, None)
    )
    assert kept > without + 0.2
    moved = search(World(lambda temperature: 0.15 + 0.5 * (temperature == 1.4)), prior=prior)
    assert moved.setting.temperature == 1.4


def test_prior_of_other_temperatures_is_not_used():
    other = Prior((0.1, 0.2), (0.3, -0.3), ((0.1, 0.0), (0.0, 0.1)), 0.1)
    plain, with_other = (search(World(peak(1.0)), prior=prior) for prior in (None, other))
    np.testing.assert_array_equal(plain.curve, with_other.curve)


def test_nothing_correct_scores_0():
    result = search(World(lambda temperature: 0.0))
    assert result.setting.score == 0.0


def test_luck_may_differ_from_query_to_query():
    """Pure guessing is worth little: with its chance known, the temperature of the reasoners wins."""

    def sample(slices, told):
        rng = np.random.default_rng(0)
        answers = []
        for temperature, ids in slices:
            correct = rng.random((len(ids), K)) < (0.45 if temperature == 1.4 else 0.4)
            correct[: len(ids) // 2] &= temperature != 1.4  # at 1.4 half of the queries are never solved
            chance = np.full(len(ids), 0.45 if temperature == 1.4 else 0.0)
            columns = (correct.astype(float), correct, np.ones_like(correct))
            answers.append(Observed(*columns, chance, 1.0) if told else columns)
        return answers

    told = search(lambda slices: sample(slices, True), disjoint=False, budget=6 * 60 * K)
    assert told.setting.temperature < 1.4
    assert told.curve[-1] < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 5 * K}, "the budget must pay for one query at each of 6 temperatures"),
        ({"num_queries": 5}, "the budget must pay for one query at each of 6 temperatures"),
        ({"num_queries": 0}, "num_queries and num_generations must be at least 1"),
        ({"temperatures": []}, "temperatures must be greater than 0"),
        ({"temperatures": [0.0, 1.0]}, "temperatures must be greater than 0"),
    ],
)
def test_impossible_searches_are_refused_before_sampling(options, message):
    world = World(peak(0.8))
    with pytest.raises(ConfigurationError, match=message):
        search(world, **options)
    assert world.calls == []


@pytest.mark.parametrize(("prefix", "bar"), [(DATA / "replay", 0.06), (SHARED / "replay" / "shared", 0.03)])
def test_regret_on_recordings(prefix, bar):
    """Half of the recorded queries are searched on, the regret is measured on the others; by chance 0.05."""
    regrets, by_chance = [], []
    for stage in (0, 3):
        data = np.load(skip_without(prefix.with_name(f"{prefix.name}_stage{stage}.npz")))
        temperatures = data["temperatures"].tolist()
        correct = data["correct"]
        selectable = np.stack([selectable_mask(ids, np.ones(ids.shape, dtype=bool)) for ids in data["solution_id"]])
        for seed in range(20):
            order = np.random.default_rng(seed).permutation(correct.shape[1])
            seen, held = np.array_split(order, 2)
            columns = (correct.astype(float), correct, selectable)

            def sample(slices, seen=seen, columns=columns, temperatures=temperatures):
                places = [(temperatures.index(temperature), seen[list(ids)]) for temperature, ids in slices]
                return [tuple(column[index, ids] for column in columns) for index, ids in places]

            result = find_setting(
                sample,
                temperatures,
                num_queries=len(seen),
                num_generations=correct.shape[2],
                target=4.0,
                budget=11 * len(seen) * correct.shape[2],
                disjoint=False,
                chance=0.1,
                rng=np.random.default_rng(seed),
            )
            curve = [
                best_threshold(
                    columns[0][index, held], correct[index, held], 4.0,
                    selectable_NK=selectable[index, held], chance=0.1,
                )[1]
                for index in range(len(temperatures))
            ]  # fmt: skip
            regrets.append(max(curve) - curve[temperatures.index(result.setting.temperature)])
            by_chance.append(max(curve) - np.mean(curve))
    assert np.mean(regrets) < bar
    assert np.mean(regrets) < 0.6 * np.mean(by_chance)
