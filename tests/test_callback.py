"""The search for the setting, on rewards made by hand: no model needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from bstar_trl import BalanceCallback, Exploration, Request, Rollouts, Setting
from bstar_trl.balance import balance_score
from bstar_trl.config import IterationPlan

K = 8
PLAN = IterationPlan(num_queries=24, num_samples=48, num_steps=5, batch_size=8, target=2.0)


class World:
    """Answers requests by a rule: at temperature T a response is correct with chance `chance(T)`."""

    def __init__(self, chance, seed: int = 0):
        self.chance = chance
        self.rng = np.random.default_rng(seed)
        self.calls: list[list[Request]] = []

    def __call__(self, requests: Sequence[Request]) -> Rollouts:
        self.calls.append(list(requests))
        query_ids = np.concatenate([np.repeat(item.query_ids, item.n) for item in requests])
        temperatures = np.concatenate([np.full(len(item.query_ids) * item.n, item.temperature) for item in requests])
        correct = self.rng.random(len(query_ids)) < np.array([self.chance(value) for value in temperatures])
        scorer = np.where(correct, 0.4, -0.4) + self.rng.normal(0, 0.3, len(query_ids))
        size = len(query_ids)
        return Rollouts(
            query_ids_R=query_ids.astype(np.int64),
            temperatures_R=temperatures,
            rewards_R=correct + scorer,
            correct_R=correct,
            judged_R=np.ones(size, dtype=bool),
            step_R=1.0 - correct,
            chance_R=np.zeros(size),
            ended_R=np.ones(size, dtype=bool),
            lengths_R=np.ones(size, dtype=np.int32),
            text_ids_R=self.rng.integers(2**63, size=size).astype(np.uint64),
            values_RF=np.stack([correct.astype(float), scorer], axis=1),
            reasons_R=np.full(size, None, dtype=object),
            rows_R=np.arange(size),
            reader=None,
        )


def make_callback(*args, temperature: float = 1.0, **kwargs) -> BalanceCallback:
    balance = BalanceCallback(*args, **kwargs)
    balance.setup(PLAN, num_generations=K, temperature=temperature, seed=0)
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
    balance = make_callback([0.5, 0.8, 1.1], num_queries=10)
    exploration = balance.explore(world, list(range(24)))
    rollouts, setting = exploration.rollouts, balance.settle(exploration)
    assert setting.temperature == 0.8
    assert setting.score == pytest.approx(brute_force(rollouts))
    assert len(rollouts) == 24 * K
    assert [item.temperature for item in world.calls[0]] == [0.5, 0.8, 1.1]
    assert world.calls[0][0].query_ids == tuple(range(10))
    assert world.calls[1][0].query_ids == tuple(range(10, 24))
    assert len({request.seed for call in world.calls for request in call}) == 4


def test_threshold_on_the_probe_is_the_papers_letter():
    def run(threshold_on):
        world = World(lambda temperature: 0.5)
        balance = make_callback([0.7, 0.9], num_queries=6, threshold_on=threshold_on)
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


def test_grid_of_thresholds_is_kept_to():
    grid = [-0.5, 0.0, 0.5, 1.0]
    balance = make_callback([0.7, 0.9], grid, num_queries=6)
    setting = balance.settle(balance.explore(World(lambda temperature: 0.5), list(range(24))))
    assert setting.threshold in grid


def test_nothing_correct_keeps_the_previous_setting_and_says_so(caplog):
    balance = make_callback([0.5, 1.5], num_queries=4, temperature=0.9)
    hopeless = World(lambda temperature: 0.0)
    exploration = balance.explore(hopeless, list(range(24)))
    rollouts, setting = exploration.rollouts, balance.settle(exploration)
    assert (setting.temperature, setting.threshold, setting.score) == (0.9, 0.0, 0.0)
    assert len(rollouts) == 24 * K  # T = 0.9 was not probed, so every query is sampled at it
    assert set(rollouts.temperatures_R) == {0.9}
    assert "no correct response at any temperature (0.5, 1.5)" in caplog.text
    found = balance.settle(balance.explore(World(lambda temperature: 0.5), list(range(24))))
    kept = balance.settle(balance.explore(hopeless, list(range(24))))
    assert (kept.temperature, kept.threshold, kept.score) == (found.temperature, found.threshold, 0.0)


def test_probe_may_take_all_queries():
    balance = make_callback([0.5, 1.0], num_queries=24)
    world = World(lambda temperature: 0.5)
    assert len(balance.explore(world, list(range(24))).rollouts) == 24 * K
    assert len(world.calls) == 1


def test_defaults_are_the_designs():
    balance = make_callback()
    assert balance.temperatures == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2])
    assert balance.num_queries == 3  # an eighth of 24
    big = BalanceCallback()
    big.setup(IterationPlan(11_500, 67_500, 500, 128, 5.87), num_generations=64, temperature=1.0, seed=0)
    assert big.num_queries == 600


def test_none_means_the_trainers_temperature():
    balance = make_callback(None, temperature=0.65)
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
