"""The time of the exact threshold search, compared with two scans of a fixed grid.

600 queries x 64 responses at each of 15 temperatures, on one core:

    python benchmarks/threshold.py

Searches for the best threshold of every temperature:
- exact: `bstar_trl.balance.best_threshold`, which compares all different thresholds with one sort;
- exact, corrected for luck: the same with a chance of 0.1, where a wrong response counts twice: at its reward, and at
  the reward that it would have, had the verifier accepted it;
- grid, NumPy: the 201 thresholds -1.00, -0.99, ..., 1.00, each with array operations;
- grid, Python: the same thresholds, response by response; timed on a small part and extrapolated.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bstar_trl.balance import best_threshold
from bstar_trl.selection import selectable_mask

TEMPERATURES, QUERIES, RESPONSES = 15, 600, 64
TARGET = 67_500 / 11_500  # the paper's M / N
GRID = np.round(np.arange(-100, 101) / 100, 2)
REPEATS = 5
PART_QUERIES, PART_THRESHOLDS = 30, 20  # the part that the Python scan is timed on


def make_samples(temperature: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rewards (1 if correct, plus a process reward in -1..1), correctness and the selectable mask, each (N, K)."""
    rng = np.random.default_rng(temperature)
    shape = (QUERIES, RESPONSES)
    correct = rng.random(shape) < rng.beta(1, 1.5, (QUERIES, 1))
    process = np.clip(np.where(correct, 0.2, -0.3) + 0.5 * rng.normal(size=shape), -1, 1)
    texts = rng.integers(0, 8 * RESPONSES // (temperature + 2), shape)  # fewer repeats at higher temperatures
    return correct + process, correct, selectable_mask(texts, rng.random(shape) < 0.95)


def scan_numpy(rewards: np.ndarray, correct: np.ndarray, selectable: np.ndarray) -> tuple[float, float]:
    """The best threshold of the grid; the highest of equally good ones."""
    best, best_score = 0.0, -1.0
    for threshold in GRID:
        selected = selectable & (rewards > threshold)
        num_selected = selected.sum(axis=1)
        num_correct = (selected & correct).sum(axis=1)
        score = (np.minimum(num_correct / TARGET, 1) * num_correct / np.maximum(num_selected, 1)).mean()
        if score >= best_score - 1e-12:
            best, best_score = float(threshold), float(score)
    return best, best_score


def scan_python(rewards: list, correct: list, selectable: list, thresholds: list[float]) -> tuple[float, float]:
    """The same, response by response."""
    best, best_score = 0.0, -1.0
    for threshold in thresholds:
        total = 0.0
        for row, right, may in zip(rewards, correct, selectable, strict=True):
            num_selected = num_correct = 0
            for reward, is_correct, is_selectable in zip(row, right, may, strict=True):
                if is_selectable and reward > threshold:
                    num_selected += 1
                    num_correct += is_correct
            if num_selected:
                total += min(num_correct / TARGET, 1) * num_correct / num_selected
        score = total / len(rewards)
        if score >= best_score - 1e-12:
            best, best_score = threshold, score
    return best, best_score


def seconds(work: Callable[[], Any]) -> float:
    """The best of several runs."""
    durations = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        durations.append(time.perf_counter() - started)
    return min(durations)


def main() -> None:
    os.sched_setaffinity(0, list(os.sched_getaffinity(0))[-1:])  # one core
    samples = [make_samples(temperature) for temperature in range(TEMPERATURES)]

    def exact() -> list[tuple[float, float]]:
        return [best_threshold(rewards, correct, TARGET, selectable_NK=mask) for rewards, correct, mask in samples]

    def corrected() -> list[tuple[float, float]]:
        return [
            best_threshold(rewards, correct, TARGET, selectable_NK=mask, chance=0.1)
            for rewards, correct, mask in samples
        ]

    def grid() -> list[tuple[float, float]]:
        return [scan_numpy(*arrays) for arrays in samples]

    rewards, correct, selectable = (array[:PART_QUERIES].tolist() for array in samples[0])
    some = GRID[:: len(GRID) // PART_THRESHOLDS][:PART_THRESHOLDS].tolist()
    whole = (TEMPERATURES * QUERIES * len(GRID)) / (PART_QUERIES * len(some))
    exact_seconds, corrected_seconds, grid_seconds = seconds(exact), seconds(corrected), seconds(grid)
    python_seconds = seconds(lambda: scan_python(rewards, correct, selectable, some)) * whole

    gains = [best[1] - scanned[1] for best, scanned in zip(exact(), grid(), strict=True)]
    if min(gains) < -1e-12:
        raise AssertionError(f"the exact search fell behind the grid by {-min(gains)}")
    size = f"{QUERIES} queries x {RESPONSES} responses x {TEMPERATURES} temperatures"
    print(f"{size}; one core, best of {REPEATS} runs\n")
    print(f"{'search':<42}{'seconds':>9}{'ratio':>9}")
    for name, duration in [
        ("exact, every threshold", exact_seconds),
        ("exact, corrected for luck", corrected_seconds),
        (f"grid of {len(GRID)}, NumPy", grid_seconds),
        (f"grid of {len(GRID)}, Python loops (extrapolated)", python_seconds),
    ]:
        print(f"{name:<42}{duration:>9.3f}{duration / exact_seconds:>8.1f}x")
    print(
        f"\nThe Python scan was timed on {PART_QUERIES} queries, {len(some)} thresholds and one temperature, and "
        f"multiplied by {whole:,.0f}.\n"
        f"Mean balance score above the grid's: {np.mean(gains):.1e} on average, {max(gains):.1e} at most."
    )


if __name__ == "__main__":
    main()
