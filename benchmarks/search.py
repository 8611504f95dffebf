"""Choosing a temperature on recordings: `python benchmarks/search.py [--recordings DIR] [--seeds 40]`.

The recordings hold 32 responses to each of 400 queries at 11 temperatures, from four stages of one training. A search
sees a random half of the queries; its regret is measured on the other half: how much lower the balance score
(corrected for luck, threshold tuned again) is at the chosen temperature than at the best one. Mean over the four
stages, targets of 4 and 8, and two rewards (the answer; the answer and a simulated process reward). Each stage has the
stage before as its prior. A slot is the 32 responses to one query at one temperature. Exits with 1 if a bar is missed.

A second table is about the size of slices: as on the testbed, every other temperature, 16 responses, a target of 4.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from bstar_trl.balance import best_threshold
from bstar_trl.search import Prior, Slice, find_setting
from bstar_trl.selection import selectable_mask

STAGES = range(4)
TARGETS = (4.0, 8.0)
REWARDS = ("answer", "answer and process")
BARS = {("paired", 275): 0.0135, ("paired", 550): 0.0110, ("disjoint", 198): 0.020}
SEEN = 200  # queries
SIZES = (6, 12, 18, 24, 36, 54, 75, 150)  # queries in all slices together


@dataclass(frozen=True)
class Recording:
    """One stage with one reward; axes: temperatures, queries, responses."""

    temperatures: tuple[float, ...]
    rewards_TNK: np.ndarray
    correct_TNK: np.ndarray
    selectable_TNK: np.ndarray
    chance: float


@cache
def load(folder: Path, stage: int, reward: str, small: bool) -> Recording:
    """The recording of a stage; a small one has half of the temperatures and of the responses."""
    data = np.load(folder / f"big_stage{stage}.npz")
    rewards_TNK = data["correct"].astype(float)
    if reward != "answer":
        rewards_TNK = rewards_TNK + data["process_reward"].astype(float)
    everything = np.ones(data["correct"].shape[1:], dtype=bool)
    selectable_TNK = np.stack([selectable_mask(ids_NK, everything) for ids_NK in data["solution_id"]])
    step, size = (2, 16) if small else (1, everything.shape[1])
    return Recording(
        temperatures=tuple(data["temperatures"].tolist()[::step]),
        rewards_TNK=rewards_TNK[::step, :, :size],
        correct_TNK=data["correct"][::step, :, :size],
        selectable_TNK=selectable_TNK[::step, :, :size],
        chance=float(data["other_gold"].mean()),
    )


def curve(recording: Recording, queries: np.ndarray, target: float) -> np.ndarray:
    """The best score at each temperature on these queries."""
    return np.array(
        [
            best_threshold(
                recording.rewards_TNK[index, queries],
                recording.correct_TNK[index, queries],
                target,
                selectable_NK=recording.selectable_TNK[index, queries],
                chance=recording.chance,
            )[1]
            for index in range(len(recording.temperatures))
        ]
    )


Chooser = Callable[[Recording, np.ndarray, float, np.random.Generator, "Prior | None"], "tuple[int, Prior | None]"]


def ours(kind: str, slots: int) -> Chooser:
    """`find_setting` with a budget of so many slots."""

    def choose(
        recording: Recording, seen: np.ndarray, target: float, rng: np.random.Generator, prior: Prior | None
    ) -> tuple[int, Prior | None]:
        def sample(slices: Sequence[Slice]) -> list[tuple[np.ndarray, ...]]:
            columns = (recording.rewards_TNK, recording.correct_TNK, recording.selectable_TNK)
            places = [(recording.temperatures.index(temperature), seen[list(ids)]) for temperature, ids in slices]
            return [tuple(column[index, ids] for column in columns) for index, ids in places]

        budget = slots * recording.rewards_TNK.shape[2]
        result = find_setting(
            sample,
            recording.temperatures,
            num_queries=len(seen),
            num_generations=recording.rewards_TNK.shape[2],
            target=target,
            budget=budget,
            disjoint=kind == "disjoint",
            chance=recording.chance,
            rng=rng,
            prior=prior,
        )
        if result.completions > budget:
            raise AssertionError(f"{result.completions} completions, budget {budget}")
        return recording.temperatures.index(result.setting.temperature), result.prior

    return choose


def rival(kind: str, slots: int, *, parabola: bool) -> Chooser:
    """The temperature with the highest score, plain or of a parabola through the curve."""

    def choose(
        recording: Recording, seen: np.ndarray, target: float, rng: np.random.Generator, prior: Prior | None
    ) -> tuple[int, None]:
        each = slots // len(recording.temperatures)
        order = rng.permutation(seen)
        scores = []
        for index in range(len(recording.temperatures)):
            queries = order[:each] if kind == "paired" else order[index * each : (index + 1) * each]
            one = Recording(
                (recording.temperatures[index],),
                recording.rewards_TNK[index : index + 1],
                recording.correct_TNK[index : index + 1],
                recording.selectable_TNK[index : index + 1],
                recording.chance,
            )
            scores.append(curve(one, queries, target)[0])
        if parabola:
            grid = np.array(recording.temperatures)
            scores = np.polyval(np.polyfit(grid, scores, 2), grid).tolist()
        return int(np.argmax(scores)), None

    return choose


def constant(index: int) -> Chooser:
    """Always the same temperature."""
    return lambda recording, seen, target, rng, prior: (index, None)


def regrets(folder: Path, chooser: Chooser, seeds: int, *, small: bool = False) -> np.ndarray:
    """Regret by reward, target, seed and stage."""
    found = []
    targets = TARGETS[:1] if small else TARGETS
    for reward in REWARDS:
        for target in targets:
            for seed in range(seeds):
                rng = np.random.default_rng(seed)
                prior: Prior | None = None
                for stage in STAGES:
                    recording = load(folder, stage, reward, small)
                    order = rng.permutation(recording.rewards_TNK.shape[1])
                    index, prior = chooser(recording, order[:SEEN], target, rng, prior)
                    held = held_curve(folder, stage, reward, target, tuple(sorted(order[SEEN:].tolist())), small)
                    found.append(held.max() - held[index])
    return np.array(found).reshape(len(REWARDS), len(targets), seeds, len(STAGES))


@cache
def held_curve(
    folder: Path, stage: int, reward: str, target: float, queries: tuple[int, ...], small: bool
) -> np.ndarray:
    """The curve on the other half of the queries."""
    return curve(load(folder, stage, reward, small), np.array(queries), target)


def constants(folder: Path, seeds: int, *, small: bool) -> str:
    """What a constant temperature loses."""
    temperatures = load(folder, 0, "answer", small).temperatures
    fixed = [regrets(folder, constant(index), seeds, small=small).mean() for index in range(len(temperatures))]
    best = int(np.argmin(fixed))
    return f"best constant temperature, {temperatures[best]:g}: {fixed[best]:.4f}; by chance: {np.mean(fixed):.4f}"


def main() -> int:
    """Print the table; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=Path, default=Path("../shared/replay_big"))
    parser.add_argument("--seeds", type=int, default=40)
    parsed = parser.parse_args()
    if not parsed.recordings.is_dir():
        print(f"no recordings in {parsed.recordings}: name their folder by --recordings", file=sys.stderr)
        return 0
    missed = 0
    print("| queries | slots | find_setting | bar | argmax | parabola | by stage | seconds a search |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for (kind, slots), bar in BARS.items():
        started = time.perf_counter()
        by_seed = regrets(parsed.recordings, ours(kind, slots), parsed.seeds)
        seconds = (time.perf_counter() - started) / by_seed.size
        plain, fitted = (
            regrets(parsed.recordings, rival(kind, slots, parabola=parabola), parsed.seeds).mean()
            for parabola in (False, True)
        )
        mean = by_seed.mean()
        missed += mean > bar
        stages = " ".join(f"{value:.4f}" for value in by_seed.mean(axis=(0, 1, 2)))
        print(
            f"| {kind} | {slots} | {mean:.4f} | {bar:.4f} | {plain:.4f} | {fitted:.4f} | {stages} | {seconds:.4f} |",
            flush=True,
        )
    print(constants(parsed.recordings, parsed.seeds, small=False))
    print("\n| queries in slices | find_setting | by stage |\n| --- | --- | --- |")
    for size in SIZES:
        by_seed = regrets(parsed.recordings, ours("disjoint", size), parsed.seeds, small=True)
        stages = " ".join(f"{value:.4f}" for value in by_seed.mean(axis=(0, 1, 2)))
        print(f"| {size} | {by_seed.mean():.4f} | {stages} |", flush=True)
    print(constants(parsed.recordings, parsed.seeds, small=True))
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
