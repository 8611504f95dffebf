"""The search for the setting, on rewards made by hand: no model needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from bstar_trl import BalanceCallback, Exploration, Request, Rollouts, Setting
from bstar_trl.balance import balance_score, best_threshold
from bstar_trl.config import IterationPlan
from bstar_trl.errors import ConfigurationError
from bstar_trl.luck import learned_factor, scaled_chance
from bstar_trl.search import SearchResult

K = 8
PLAN = IterationPlan(num_queries=24, num_samples=48, num_steps=5, batch_size=8, target=2.0)
WIDE = IterationPlan(num_queries=48, num_samples=96, num_steps=5, batch_size=8, target=2.0)


class World:
    """Answers requests by a rule: at temperature T a response is correct with chance `chance(T)` x the query's ease.

    `guess`: how often the verifier accepts wrong reasoning, as it is told to the callback. A scorer adds `separation`
    for correct responses, takes it from others, and adds noise.
    """

    def __init__(
        self, chance, seed: int = 0, *, ease=None, guess: float = 0.0, noise: float = 0.3, separation: float = 0.4
    ):
        self.chance = chance
        self.ease = ease
        self.guess = guess
        self.noise = noise
        self.separation = separation
        self.rng = np.random.default_rng(seed)
        self.calls: list[list[Request]] = []

    def __call__(self, requests: Sequence[Request]) -> Rollouts:
        self.calls.append(list(requests))
        query_ids = np.concatenate([np.repeat(item.query_ids, item.n) for item in requests])
        temperatures = np.concatenate([np.full(len(item.query_ids) * item.n, item.temperature) for item in requests])
        ease = 1.0 if self.ease is None else self.ease[query_ids]
        correct = self.rng.random(len(query_ids)) < ease * np.array([self.chance(value) for value in temperatures])
        scorer = np.where(correct, self.separation, -self.separation) + self.rng.normal(0, self.noise, len(query_ids))
        size = len(query_ids)
        return Rollouts(
            query_ids_R=query_ids.astype(np.int64),
            temperatures_R=temperatures,
            rewards_R=correct + scorer,
            correct_R=correct,
            judged_R=np.ones(size, dtype=bool),
            step_R=1.0 - correct,
            chance_R=np.full(size, self.guess),
            ended_R=np.ones(size, dtype=bool),
            lengths_R=np.ones(size, dtype=np.int32),
            text_ids_R=self.rng.integers(2**63, size=size).astype(np.uint64),
            values_RF=np.stack([correct.astype(float), scorer], axis=1),
            reasons_R=np.full(size, None, dtype=object),
            rows_R=np.arange(size),
            reader=None,
        )


def make_callback(*args, temperature: float = 1.0, plan: IterationPlan = PLAN, **kwargs) -> BalanceCallback:
    balance = BalanceCallback(*args, **kwargs)
    balance.setup(plan, num_generations=K, temperature=temperature, seed=0)
    return balance


def brute_force(rollouts: Rollouts) -> float:
    """The best mean balance score over every threshold that could matter, by trying each."""
    best = 0.0
    for threshold in [rollouts.rewards_R.min() - 1, *rollouts.rewards_R]:
        scores = []
        for query in np.unique(rollouts.query_ids_R):
            kept = (rollouts.query_ids_R == query) & (rollouts.rewards_R > threshold)
            right = (kept & rollouts.correct_R).sum()
            scores.append(min(right / PLAN.target, 1) * right / kept.sum() if kept.any() else 0.0)
        best = max(best, float(np.mean(scores)))
    return best


def test_finds_the_temperature_with_the_best_score():
    world = World(lambda temperature: {0.5: 0.1, 0.8: 0.6, 1.1: 0.2}[temperature])
    balance = make_callback([0.5, 0.8, 1.1], num_queries=10, search="grid", allocation="fixed")
    exploration = balance.explore(world, list(range(24)))
    rollouts, setting = exploration.rollouts, balance.settle(exploration)
    assert setting.temperature == 0.8
    assert setting.score == pytest.approx(brute_force(rollouts))
    assert len(rollouts) == 24 * K
    assert [item.temperature for item in world.calls[0]] == [0.5, 0.8, 1.1]
    assert len({request.query_ids for request in world.calls[0]}) == 1
    assert set(world.calls[0][0].query_ids) == set(range(10))
    assert world.calls[1][0].query_ids == tuple(range(10, 24))
    assert len({request.seed for call in world.calls for request in call}) == 4


def test_threshold_on_the_probe_is_the_papers_letter():
    def run(threshold_on):
        world = World(lambda temperature: 0.5)
        balance = make_callback(
            [0.7, 0.9], num_queries=6, threshold_on=threshold_on, search="grid", allocation="fixed", chance=0.0
        )
        exploration = balance.explore(world, list(range(24)))
        return exploration.rollouts, balance.settle(exploration)

    rollouts, setting = run("probe")
    probed = rollouts.take(rollouts.query_ids_R < 6)
    kept = probed.rewards_R > setting.threshold
    scores = [
        balance_score(
            (kept & probed.correct_R)[probed.query_ids_R == query].sum(), kept[probed.query_ids_R == query].sum(), 2
        )
        for query in range(6)
    ]
    assert np.mean(scores) == pytest.approx(brute_force(probed))
    rollouts, setting = run("all")
    assert setting.score == pytest.approx(brute_force(rollouts))


def settled(balance: BalanceCallback, world: World) -> Setting:
    """An iteration."""
    exploration = balance.begin(world, list(range(24)))
    setting = balance.settle(exploration)
    balance.record(setting, exploration, num_sampled=len(exploration.rollouts))
    return setting


def test_luck_lowers_the_score_and_leaves_the_threshold():
    def world(guess):
        return World(lambda temperature: 0.5, guess=guess, noise=0.6)

    plain, lucky = (settled(make_callback(0.7), world(guess)) for guess in (0.0, 0.3))
    assert lucky.threshold == plain.threshold
    assert lucky.score < plain.score - 0.05
    grids = world(0.3)([Request(tuple(range(24)), 0.7, K, 0)]).grids  # the same samples
    corrected, _ = best_threshold(grids.rewards_NK, grids.correct_NK, 2.0, **grids.luck)
    assert corrected > plain.threshold + 0.1  # what a threshold chosen by the corrected score would be


def test_threshold_in_force_stays_where_the_difference_is_noise():
    def world(seed, shift=0.0):
        class Shifted(World):
            def __call__(self, requests):
                rollouts = super().__call__(requests)
                return dataclasses.replace(rollouts, rewards_R=rollouts.rewards_R + shift)

        return Shifted(lambda temperature: 0.5, seed)

    balance, each_time = make_callback(0.7), make_callback(0.7, smooth=False)
    first = settled(balance, world(0)).threshold
    assert settled(each_time, world(0)).threshold == first
    assert settled(balance, world(1)).threshold == first  # the same policy
    assert settled(each_time, world(1)).threshold != first
    assert settled(balance, world(1, shift=1.5)).threshold > first + 1  # everything lies above the old one
    on_grid = make_callback(0.7, thresholds=[0.25, 0.75])
    assert settled(on_grid, world(0)).threshold in (0.25, 0.75)


def test_grid_of_thresholds_is_kept_to():
    grid = [-0.5, 0.0, 0.5, 1.0]
    balance = make_callback([0.7, 0.9], grid, num_queries=6)
    setting = balance.settle(balance.explore(World(lambda temperature: 0.5), list(range(24))))
    assert setting.threshold in grid


def test_nothing_correct_keeps_the_previous_setting_and_says_so(caplog):
    balance = make_callback([0.5, 1.5], num_queries=4, temperature=0.9, search="grid")
    hopeless = World(lambda temperature: 0.0)
    exploration = balance.explore(hopeless, list(range(24)))
    rollouts, setting = exploration.rollouts, balance.settle(exploration)
    assert (setting.temperature, setting.threshold, setting.score) == (0.9, 0.0, 0.0)
    assert len(rollouts) == 24 * K  # T = 0.9 was not probed, so every query is sampled at it
    assert set(rollouts.temperatures_R) == {0.9}
    assert "No temperature (0.5, 1.5) scores above 0 on 4 queries" in caplog.text
    found = balance.settle(balance.explore(World(lambda temperature: 0.5), list(range(24))))
    kept = balance.settle(balance.explore(hopeless, list(range(24))))
    assert (kept.temperature, kept.threshold, kept.score) == (found.temperature, found.threshold, 0.0)


def test_probe_may_take_all_queries():
    for search in ("grid", "slices"):
        balance = make_callback([0.5, 1.0], num_queries=24, search=search)
        world = World(lambda temperature: 0.5)
        assert len(balance.explore(world, list(range(24))).rollouts) == 24 * K
        assert len(world.calls) == 1


def test_defaults_are_the_designs():
    balance = make_callback()
    assert balance.temperatures == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2])
    assert (balance.search, balance.num_queries) == ("grid", 3)  # slices would take more than a quarter

    def with_queries(most, at_winner, **options):
        balance = BalanceCallback(**options)
        balance.setup(IterationPlan(most, 67_500, 500, 128, 5.87), num_generations=64, temperature=1, seed=0)
        return balance.search, balance.num_queries, balance._shares.num_even(at_winner)

    assert with_queries(7, 0) == ("grid", 1, 24)  # too few for slices
    assert with_queries(31, 0) == ("grid", 3, 24)
    assert with_queries(32, 1) == ("slices", 8, 23)  # one for each temperature
    assert with_queries(31, 1, search="slices") == ("slices", 8, 23)
    assert with_queries(160, 5) == ("slices", 24, 24)  # three for each temperature
    assert with_queries(1_600, 20) == ("slices", 100, 100)  # a sixteenth
    assert with_queries(11_500, 0) == ("slices", 600, 600)
    assert with_queries(160, 5, allocation="fixed") == ("slices", 40, 40)  # a quarter: they cost nothing
    assert with_queries(1_600, 5, allocation="fixed") == ("slices", 400, 400)
    assert with_queries(160, 20, search="grid") == ("grid", 20, 20)  # an eighth
    assert with_queries(11_500, 600, search="grid") == ("grid", 600, 600)
    assert with_queries(160, 6, num_queries=6) == ("grid", 6, 18)  # fewer than temperatures
    assert with_queries(160, 20, threshold_on="probe") == ("grid", 20, 20)
    assert with_queries(160, 8, num_queries=40) == ("slices", 40, 40)


def test_none_means_the_trainers_temperature():
    balance = make_callback(None, temperature=0.65, allocation="fixed")
    world = World(lambda temperature: 0.5)
    balance.explore(world, list(range(24)))
    assert [[item.temperature for item in call] for call in world.calls] == [[0.65]]


def test_subclass_replaces_the_search():
    class Anneal(BalanceCallback):
        def explore(self, sample, queries):
            return sample([Request(tuple(queries), 1 / (1 + len(self.history)), self.num_generations, 3)])

    balance = Anneal()
    balance.setup(PLAN, num_generations=K, temperature=0.8, seed=0)
    chosen = []
    for _ in range(2):
        exploration = Exploration.of(balance.explore(World(lambda temperature: 0.5), list(range(24))))
        setting = balance.settle(exploration)
        balance.record(setting, exploration, num_sampled=192)
        chosen.append(setting.temperature)
    assert chosen == [1.0, 0.5]


def test_continues_where_the_state_was_taken():
    def step(balance, world):
        exploration = balance.explore(world, list(range(24)))
        setting = balance.settle(exploration)
        balance.record(setting, exploration, num_sampled=200)
        return [request for call in world.calls[-2:] for request in call], setting

    first = make_callback([0.7, 0.9], num_queries=6)
    step(first, World(lambda temperature: 0.5))
    state = first.state_dict()
    expected = step(first, World(lambda temperature: 0.3, seed=4))
    second = make_callback([0.7, 0.9], num_queries=6)
    second.load_state_dict(state)
    assert step(second, World(lambda temperature: 0.3, seed=4)) == expected
    assert len(second.history) == len(first.history) == 2
    for mine, other in zip(second.history, first.history, strict=True):
        assert mine | {"balance/probe_seconds": 0} == other | {"balance/probe_seconds": 0}


@pytest.mark.parametrize(("step", "strategy", "expected"), [(5, "steps", True), (4, "steps", False), (5, "no", False)])
def test_last_step_of_an_iteration_is_logged(tmp_path, step, strategy, expected):
    balance = make_callback()
    args = TrainingArguments(output_dir=str(tmp_path), logging_strategy=strategy, report_to="none")
    control = TrainerControl()
    balance.on_step_end(args, TrainerState(global_step=step), control)
    assert control.should_log is expected


def test_numpy_numbers_of_a_subclass_become_plain_ones():
    """A checkpoint is read with `weights_only=True`, which refuses NumPy's."""
    balance = make_callback(0.7)
    rollouts = World(lambda temperature: 0.5)([Request((0, 1), 0.7, K, 0)])
    exploration = Exploration(rollouts, 0.7, figures={"balance/noise": np.float64(0.25)})
    balance.record(Setting(np.float64(0.7), np.float64(0.5)), exploration, num_sampled=16)
    (entry,) = balance.history
    assert entry["balance/noise"] == 0.25
    assert {type(value) for value in entry.values()} == {float}
    assert {type(value) for value in balance.state_dict()["setting"].values()} == {float}


QUERIES = list(range(24))
MANY = list(range(48))
EASE = np.linspace(0.0, 1.6, 48)


def tries_of(rollouts: Rollouts, queries) -> dict[int, int]:
    return {query: int((rollouts.query_ids_R == query).sum()) for query in queries}


def good(rollouts: Rollouts, threshold: float) -> np.ndarray:
    """Texts never repeat and all responses end in this world, so every correct one above the threshold is good."""
    return rollouts.correct_R & (rollouts.rewards_R > threshold)


def test_slices_cost_nothing():
    world = World(lambda temperature: {0.5: 0.2, 0.8: 0.6, 1.1: 0.3}[temperature])
    balance = make_callback([0.5, 0.8, 1.1], num_queries=9, allocation="fixed")
    exploration = balance.explore(world, QUERIES)
    assert tries_of(exploration.rollouts, QUERIES) == dict.fromkeys(QUERIES, K)
    sliced, rest = world.calls
    assert [request.temperature for request in sliced] == [0.5, 0.8, 1.1]
    assert sorted(query for request in sliced for query in request.query_ids) == QUERIES[:9]
    assert [(request.temperature, request.query_ids) for request in rest] == [
        (exploration.temperature, tuple(QUERIES[9:]))
    ]
    entry = balance.record(balance.settle(exploration), exploration, num_sampled=24 * K)
    assert entry["balance/extra_completions"] == entry["balance/saved_completions"] == 0
    assert entry["balance/probe_completions"] == 9 * K
    # What is measured is measured at the winner: its slice and the rest.
    assert set(exploration.evenly_sampled.temperatures_R) == {exploration.temperature}
    assert len(exploration.evenly_sampled) == (3 + 15) * K


@pytest.mark.parametrize("target", [2.0, 1.5, 3.7])
def test_rounds_stop_when_a_query_has_enough(target):
    world = World(lambda temperature: 0.5, ease=np.roll(EASE, 24))
    balance = BalanceCallback(0.7)
    plan = IterationPlan(num_queries=48, num_samples=48, num_steps=5, batch_size=8, target=target)
    balance.setup(plan, num_generations=11, temperature=1.0, seed=0)  # rounds of 4, 4 and 3
    exploration = balance.explore(world, MANY)
    rollouts, wanted = exploration.rollouts, int(np.ceil(target))
    tries = tries_of(rollouts, MANY)
    assert {tries[query] for query in MANY[:24]} == {11}  # in any case
    for query in MANY[24:]:
        mine = good(rollouts.take(rollouts.query_ids_R == query), exploration.threshold)
        stops = [size for size in (4, 8, 11) if mine[:size].sum() >= wanted]
        assert tries[query] == (stops[0] if stops else 11)
    assert len(set(tries.values())) >= 2
    assert [request.n for call in world.calls for request in call] == [11, 4, 4, 3]
    assert len(world.calls) == 3  # the queries with 11 in any case come with the first round
    entry = balance.record(balance.settle(exploration), exploration, num_sampled=len(rollouts))
    assert entry["balance/saved_completions"] == 48 * 11 - len(rollouts) > 0
    assert entry["balance/extra_completions"] == 0


@pytest.mark.parametrize(
    ("options", "ranked", "in_rounds"),
    [
        ({}, False, True),
        ({}, True, False),  # a scorer picks the best of many
        ({"allocation": "rounds"}, True, True),
        ({"allocation": "fixed"}, False, False),
        ({"reinvest": "hard"}, True, True),  # spends what rounds save
    ],
)
def test_who_is_sampled_in_rounds(options, ranked, in_rounds):
    balance = BalanceCallback(0.7, **options)
    balance.setup(WIDE, num_generations=K, temperature=1.0, seed=0, ranked=ranked)
    world = World(lambda temperature: 0.5)
    balance.explore(world, MANY)
    assert ([request.n for request in world.calls[0]] == [K, 4]) is in_rounds


def test_all_solved_at_once_and_none_ever():
    balance = make_callback(0.7, plan=WIDE)
    easy = World(lambda temperature: 1.0, noise=0.0)
    exploration = balance.explore(easy, MANY)
    assert len(easy.calls) == 1
    assert tries_of(exploration.rollouts, MANY[24:]) == dict.fromkeys(MANY[24:], 4)
    hopeless = World(lambda temperature: 0.0)
    exploration = balance.explore(hopeless, MANY)
    assert tries_of(exploration.rollouts, MANY) == dict.fromkeys(MANY, K)
    assert balance.settle(exploration).score == 0.0


def test_slices_of_all_queries_without_a_score_keep_a_candidate(caplog):
    """`args.temperature` is no candidate, and nothing was sampled at it."""
    balance = make_callback([0.5, 0.7], num_queries=24, temperature=1.0)
    exploration = balance.explore(World(lambda temperature: 0.0), QUERIES)
    setting = balance.settle(exploration)
    assert (setting.temperature, setting.score) == (0.7, 0.0)
    assert len(exploration.evenly_sampled)
    assert balance.record(setting, exploration, num_sampled=24 * K)["balance/score"] == 0.0
    assert "T = 0.7 is kept" in caplog.text


def test_fewer_than_four_responses_come_in_one_round():
    balance = BalanceCallback(0.7)
    balance.setup(WIDE, num_generations=3, temperature=1.0, seed=0)
    world = World(lambda temperature: 0.5)
    assert tries_of(balance.explore(world, MANY).rollouts, MANY) == dict.fromkeys(MANY, 3)
    assert len(world.calls) == 1


def test_responses_that_are_compared_come_all_at_once():
    """A reward model alone says *better than the others of its query*: four of them would be another comparison."""
    balance = BalanceCallback([0.7, 0.9], reinvest="hard")
    balance.setup(WIDE, num_generations=K, temperature=1.0, seed=0, in_rounds=False)
    world = World(lambda temperature: 0.5)
    exploration = balance.explore(world, MANY)
    assert tries_of(exploration.rollouts, MANY) == dict.fromkeys(MANY, K)
    assert {request.n for call in world.calls for request in call} == {K}


def test_what_is_saved_goes_to_hard_queries():
    most = 0
    for seed in range(8):
        world = World(lambda temperature: 0.6, seed, ease=np.roll(EASE, 12))
        balance = make_callback([0.7, 0.9], num_queries=4, reinvest="hard", plan=WIDE)
        exploration = balance.explore(world, MANY)
        rollouts = exploration.rollouts
        assert len(rollouts) <= 48 * K
        is_good = good(rollouts, exploration.threshold)
        for query, tries in tries_of(rollouts, MANY).items():
            assert tries <= 2 * K
            mine = is_good[rollouts.query_ids_R == query]
            if tries > K:
                assert not mine[:K].any()
                assert not mine[: tries - 4].any()  # a round after the first good one there is no other
        most = max(most, *tries_of(rollouts, MANY).values())
    assert most > K


def test_hard_queries_get_no_more_than_was_saved():
    """One query is never solved, and the others save less than a round: nothing more is asked for."""
    ease = np.where(np.arange(26) == 25, 0.0, 10.0)
    balance = BalanceCallback(0.7, reinvest="hard")
    plan = IterationPlan(num_queries=26, num_samples=48, num_steps=5, batch_size=8, target=2.0)
    balance.setup(plan, num_generations=6, temperature=1.0, seed=0)
    world = World(lambda temperature: 0.1, ease=ease, noise=0.0)  # 24 even queries, one solved at once, one never
    rollouts = balance.explore(world, list(range(26))).rollouts
    assert tries_of(rollouts, [24, 25]) == {24: 4, 25: 6}
    assert [request.n for call in world.calls for request in call] == [6, 4, 2]  # 2 saved, a round needs 4


def test_stopping_on_the_outcome_biases_nothing_that_is_measured():
    """Many iterations of one policy: pass@1 of the first rounds, and the score at the chosen threshold of the queries
    with K responses in any case, agree with the truth; pass@1 of all responses does not."""
    first, even, everything, scores = [], [], [], []
    for seed in range(100):
        world = World(lambda temperature: 0.5, seed, ease=np.random.default_rng(seed).permutation(EASE))
        balance = BalanceCallback(0.7, thresholds=0.6)
        balance.setup(WIDE, num_generations=K, temperature=1.0, seed=seed)
        exploration = balance.explore(world, MANY)
        first.append(exploration.sampled_first.correct_R.mean())
        even.append(exploration.evenly_sampled.grids.correct_NK.any(axis=1).mean())
        everything.append(exploration.rollouts.correct_R.mean())
        scores.append(balance.settle(exploration).score)
    truth, reward = policy(10_000)
    assert np.mean(first) == pytest.approx(truth.mean(), abs=0.01)
    assert np.mean(even) == pytest.approx(truth.any(axis=2).mean(), abs=0.02)
    assert np.mean(scores) == pytest.approx(true_score(truth, reward, 0.6), abs=0.02)
    assert abs(np.mean(everything) - truth.mean()) > 0.015


def test_a_threshold_chosen_beside_rounds_is_as_good_as_one_chosen_on_all():
    """A free threshold: what is reported may flatter it a little, what it is worth on other queries loses little."""
    found = {}
    truth, reward = policy(2_000)
    for allocation in ("fixed", "rounds"):
        reported, worth = [], []
        for seed in range(40):
            world = World(lambda temperature: 0.5, seed, ease=np.random.default_rng(seed).permutation(EASE))
            balance = BalanceCallback(0.7, allocation=allocation)
            balance.setup(WIDE, num_generations=K, temperature=1.0, seed=seed)
            setting = balance.settle(balance.explore(world, MANY))
            reported.append(setting.score)
            worth.append(true_score(truth, reward, setting.threshold))
        found[allocation] = np.mean(reported), np.mean(worth)
    assert found["rounds"][0] == pytest.approx(found["fixed"][0], abs=0.02)
    assert found["rounds"][1] > found["fixed"][1] - 0.015


def policy(times: int) -> tuple[np.ndarray, np.ndarray]:
    """Correctness and rewards of K responses to all queries, so many times: the rule of `World` at `chance` 0.5."""
    rng = np.random.default_rng(1)
    truth = rng.random((times, 48, K)) < np.minimum(0.5 * EASE, 1)[:, None]
    return truth, truth + np.where(truth, 0.4, -0.4) + rng.normal(0, 0.3, truth.shape)


def true_score(truth: np.ndarray, reward: np.ndarray, threshold: float) -> float:
    """Equation 3 by its definition, for a target of 2."""
    kept = reward > threshold
    n, right = kept.sum(axis=2), (kept & truth).sum(axis=2)
    return float((np.minimum(right / 2, 1) * right / np.maximum(n, 1)).mean())


def test_main_process_decides_who_goes_on():
    class Agreeing(World):
        """Another process's view: it never lets query 47 go on."""

        def agree(self, value):
            return [query for query in value if query != 47] if isinstance(value, list) else value

    balance = make_callback(0.7, plan=WIDE)
    exploration = balance.begin(Agreeing(lambda temperature: 0.0), MANY)
    assert tries_of(exploration.rollouts, [46, 47]) == {46: K, 47: 4}


def test_main_process_decides_what_is_searched_and_found():
    """Each kind of decision, changed on its way by the main process."""

    def explore(change):
        class Agreeing(World):
            def agree(self, value):
                return change(value)

        world = Agreeing(lambda temperature: 0.5)
        balance = make_callback([0.7, 0.9], num_queries=4, plan=WIDE)
        return balance.begin(world, MANY), world

    def other_winner(value):
        if isinstance(value, SearchResult):
            return dataclasses.replace(value, setting=dataclasses.replace(value.setting, temperature=winner))
        return value

    for winner in (0.7, 0.9):
        assert explore(other_winner)[0].temperature == winner
    exploration, _ = explore(lambda value: 0.125 if isinstance(value, float) else value)
    assert exploration.threshold == 0.125
    slices = [(0.7, (3,)), (0.9, (0, 1, 2))]
    _, world = explore(lambda value: slices if isinstance(value, list) and isinstance(value[0], tuple) else value)
    assert [(request.temperature, request.query_ids) for request in world.calls[0]] == slices


def test_main_process_decides_in_a_subclass_too():
    """Its `explore` may hand on a function of its own, and gets the chance like any other."""

    class Mine(BalanceCallback):
        def explore(self, sample, queries):
            rollouts = sample([Request(tuple(queries[:2]), 0.7, 4, 0)])
            assert rollouts.chance_R == pytest.approx(0.25)
            return super().explore(lambda requests: sample(requests), queries[2:])

    class Agreeing(World):
        def agree(self, value):
            self.asked = True
            return value

    world = Agreeing(lambda temperature: 0.5, guess=0.4)
    balance = Mine([0.7, 0.9], chance=0.25)
    balance.setup(WIDE, num_generations=K, temperature=1.0, seed=0)
    assert set(balance.begin(world, MANY).rollouts.chance_R) == {0.25}
    assert world.asked


def test_luck_does_not_keep_correct_responses_from_being_trained_on(caplog):
    world = World(lambda temperature: 0.2, guess=0.45, noise=0.0, separation=0.0)
    balance = make_callback(0.7, allocation="fixed")
    exploration = balance.explore(world, QUERIES)
    setting = balance.settle(exploration)
    assert setting.score < 0.05
    assert good(exploration.rollouts, setting.threshold).sum() > 10
    entry = balance.record(setting, exploration, num_sampled=24 * K)
    assert entry["select/lucky_share"] > 0.9
    assert entry["balance/chance"] == pytest.approx(0.45)
    assert "right by luck" in caplog.text
    caplog.clear()
    balance.record(setting, exploration, num_sampled=24 * K)
    assert "right by luck" not in caplog.text


def test_threshold_is_the_papers_where_luck_explains_everything():
    """Correct responses have a total of -1, wrong ones of 2: the threshold in force, 0, would select wrong ones."""
    world = World(lambda temperature: 0.2, guess=0.45, noise=0.0, separation=-2.0)
    balance = make_callback(0.7)
    exploration = balance.explore(world, QUERIES)
    setting = balance.settle(exploration)
    assert (setting.threshold < -1, setting.score) == (True, 0.0)
    assert good(exploration.rollouts, setting.threshold).sum() > 10


def test_temperature_is_chosen_with_luck():
    """The cooler temperature has more correct responses; but its wrong ones might as well have been accepted, while a
    scorer sees through those of the hotter one: their totals would stay below any threshold that matters."""

    class SeenThrough(World):
        def __call__(self, requests):
            rollouts = super().__call__(requests)
            hot = (rollouts.temperatures_R == 1.1) & ~rollouts.correct_R
            return dataclasses.replace(rollouts, step_R=np.where(hot, 0.0, rollouts.step_R))

    found = {}
    for chance in (0.0, 0.4):
        right = {0.5: 0.5, 1.1: 0.42}
        world = SeenThrough(right.__getitem__, guess=chance, noise=0.0, separation=0.0)
        balance = make_callback([0.5, 1.1], num_queries=40, plan=WIDE)
        found[chance] = balance.begin(world, MANY).temperature
    assert found == {0.0: 0.5, 0.4: 1.1}


def test_record_says_what_the_responses_say():
    """Lucky share of all responses, and the standard error of the scores of those with K, by their definitions."""
    world = World(lambda temperature: 0.5, ease=EASE, guess=0.1)
    balance = make_callback(0.7, plan=WIDE)
    exploration = balance.begin(world, MANY)
    setting = balance.settle(exploration)
    entry = balance.record(setting, exploration, num_sampled=len(exploration.rollouts))

    def share(rollouts):
        doubtful = (~rollouts.correct_R & (rollouts.rewards_R + 1 > setting.threshold)).sum()
        return 0.1 / 0.9 * doubtful / good(rollouts, setting.threshold).sum()

    assert entry["select/lucky_share"] == pytest.approx(share(exploration.rollouts))
    assert abs(share(exploration.rollouts) - share(exploration.evenly_sampled)) > 0.01
    even, scores = exploration.evenly_sampled, []
    for query in MANY[:24]:
        mine = even.take(even.query_ids_R == query)
        kept = mine.rewards_R > setting.threshold
        doubtful = (~mine.correct_R & (mine.rewards_R + 1 > setting.threshold)).sum()
        right = max((kept & mine.correct_R).sum() - doubtful / 9, 0.0)
        scores.append(min(right / 2, 1) * right / kept.sum() if kept.any() else 0.0)
    assert entry["balance/score"] == pytest.approx(np.mean(scores))
    assert entry["balance/score_se"] == pytest.approx(np.std(scores, ddof=1) / np.sqrt(24))


def test_a_single_query_leaves_its_score_uncertain():
    balance = make_callback(0.7)
    exploration = Exploration(World(lambda temperature: 0.5)([Request((0,), 0.7, K, 0)]), 0.7)
    assert balance.record(balance.settle(exploration), exploration, num_sampled=K)["balance/score_se"] == 0.5


def test_state_of_an_earlier_version_can_be_continued():
    world = World(lambda temperature: 0.2, guess=0.45, noise=0.0, separation=0.0)
    balance = make_callback(0.7)
    old = {"balance/score": 0.5, "balance/temperature": 0.7, "balance/threshold": 0.0}
    state = balance.state_dict() | {"history": [old]}
    del state["prior"], state["trained_share"]
    balance.load_state_dict(state)
    exploration = balance.explore(world, QUERIES)
    assert balance.record(balance.settle(exploration), exploration, num_sampled=1)["select/lucky_share"] > 0.5


def test_luck_that_was_trained_on_is_expected_again():
    def step(balance, right=0.6):
        world = World(lambda temperature: right, 5, guess=0.1, noise=0.0, separation=0.0)
        exploration = balance.begin(world, QUERIES)
        return balance.record(balance.settle(exploration), exploration, num_sampled=24 * K)["balance/chance"]

    balance = make_callback(0.7)
    assert step(balance, right=0.2) == pytest.approx(0.1)  # nothing was trained on yet
    first = balance.history[0]["select/lucky_share"]
    plain = World(lambda temperature: 0.6, 5, noise=0.0, separation=0.0)([Request(tuple(QUERIES), 0.7, K, 0)]).grids
    factor = learned_factor(0.1, plain.correct_NK, plain.selectable_NK, trained_share=first)
    assert first > 0.3
    assert step(balance) == pytest.approx(float(scaled_chance(0.1, factor)))
    assert factor > 3
    balance.appraiser.trained_share = 0.5
    learned = step(balance)
    assert learned > 0.2
    balance.appraiser.trained_share = 0.5
    resumed = make_callback(0.7)
    resumed.load_state_dict(balance.state_dict())
    assert step(resumed) == step(balance)
    assert step(make_callback(0.7, chance=0.25)) == pytest.approx(0.25)  # a number is taken as it is
    assert step(make_callback(0.7, chance=0)) == 0


def test_paper_is_the_papers_letter():
    """Algorithm 1: probe the same queries at every temperature, take the pair with the highest mean of equation 3."""
    temperatures = [0.5, 0.8, 1.1]
    for seed in range(5):
        world = World(lambda temperature: 0.3 + 0.1 * temperature, seed, ease=EASE[::2], guess=0.4)
        balance = BalanceCallback.paper(temperatures, num_queries=6)
        balance.setup(PLAN, num_generations=K, temperature=1.0, seed=seed)
        assert balance.thresholds == pytest.approx(np.round(np.arange(-1, 1.01, 0.1), 1))
        probed = []
        world_call = world.__call__

        def sample(requests, call=world_call, probed=probed):
            probed.append(call(requests))
            return probed[-1]

        exploration = balance.begin(sample, QUERIES)
        setting = balance.settle(exploration)
        best = (-1.0, 0.0, 0.0)
        for temperature in temperatures:
            mine = probed[0].at(temperature)
            for threshold in np.round(np.arange(-1, 1.01, 0.1), 1):
                kept = mine.rewards_R > threshold
                scores = []
                for query in range(6):
                    n = (kept & (mine.query_ids_R == query)).sum()
                    right = (kept & mine.correct_R & (mine.query_ids_R == query)).sum()
                    scores.append(min(right / 2.0, 1) * right / n if n else 0.0)
                if np.mean(scores) > best[0] + 1e-12 or (temperature == best[1] and np.mean(scores) > best[0] - 1e-12):
                    best = (float(np.mean(scores)), temperature, float(threshold))
        assert (setting.temperature, setting.threshold) == (best[1], pytest.approx(best[2]))
        assert [request.temperature for request in world.calls[0]] == temperatures
        assert {request.query_ids for request in world.calls[0]} == {tuple(range(6))}
        assert [(request.query_ids, request.n) for request in world.calls[1]] == [(tuple(range(6, 24)), K)]
        assert tries_of(exploration.rollouts, QUERIES) == dict.fromkeys(QUERIES, K)
        entry = balance.record(setting, exploration, num_sampled=24 * K + 2 * 6 * K)
        assert entry["balance/chance"] == 0
        assert entry["balance/extra_completions"] == 2 * 6 * K
    defaults = BalanceCallback.paper()
    defaults.setup(IterationPlan(11_500, 67_500, 500, 128, 5.87), num_generations=64, temperature=1.0, seed=0)
    assert defaults.num_queries == 600
    assert defaults.temperatures == pytest.approx(np.round(np.arange(0.5, 1.21, 0.1), 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"search": "line"}, "search must be None or 'slices' or 'grid', got 'line'"),
        ({"allocation": "even"}, "allocation must be None or 'rounds' or 'fixed', got 'even'"),
        ({"reinvest": "soft"}, "reinvest must be None or 'hard', got 'soft'"),
        ({"reinvest": "hard", "allocation": "fixed"}, "it needs allocation='rounds'"),
        ({"chance": 1.0}, r"chance must be a number in \[0, 1\) or 'estimate', got 1.0"),
        ({"chance": "guess"}, r"chance must be a number in \[0, 1\) or 'estimate', got 'guess'"),
    ],
)
def test_unknown_words_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        BalanceCallback(**options)


def test_slices_need_a_query_for_each_temperature():
    with pytest.raises(ConfigurationError, match="search='slices' needs a query for each of 3 temperatures"):
        make_callback([0.5, 0.8, 1.1], num_queries=2, search="slices")
