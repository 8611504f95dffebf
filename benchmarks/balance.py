"""Ways to balance, on the testbed: `python benchmarks/balance.py [--arms NAME ...] [--seeds 3] [--jobs 2]`.

Trains the demo's policy with each arm and seed, every run a process of its own: at most 4,800 completions and 1,200
wanted samples an iteration, so an arm with a probe pays for it out of that. Runs that have finished are read from
`--output-dir` (those of docs/log.md lie in results/balance), so the benchmark goes on where it was interrupted; delete
them once the code has changed what an arm does. Then prints a table and the comparisons that the figures at hand
allow. A run of 8 iterations takes about two minutes on one core, with the process reward model three.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from runs import finish, folder_of
from scipy import stats

RESULTS = Path(__file__).parent / "results" / "balance"
GENERATIONS = 16
FIGURES = ("valid@1", "distinct_valid", "valid@1_6", "greedy_valid_6", "distinct_valid_6")
JUDGED = ("valid@1", "greedy_valid_6")  # the bars are about these


@dataclass(frozen=True)
class Arm:
    """A way to balance: the callback's arguments and the queries of an iteration."""

    options: dict[str, Any] = field(default_factory=dict)
    queries: int = 300
    reward: Literal["answer", "prm"] = "answer"
    iterations: int = 8


def static(temperature: float, threshold: float = 0.0, **changes: Any) -> Arm:
    """A constant setting."""
    return Arm({"temperatures": temperature, "thresholds": threshold, "allocation": "fixed"}, **changes)


# The paper probes 5 % of the queries at each of six temperatures: 240 x 16, and 12 x 16 x 5 that are thrown away.
GRID = {"search": "grid", "allocation": "fixed", "num_queries": 12, "smooth": False, "threshold_on": "probe"}
ARMS: dict[str, Arm] = {
    "T = 1": static(1.0),
    "T = 0.8": static(0.8),
    "T = 0.6": static(0.6),
    "paper": Arm({**GRID, "chance": 0.0}, queries=240),
    "+ luck": Arm(GRID, queries=240),
    "+ slices": Arm({"allocation": "fixed", "num_queries": 18}),  # as many in slices as with rounds
    "+ rounds": Arm({"allocation": "rounds"}),  # the default
    "+ reinvest": Arm({"allocation": "rounds", "reinvest": "hard"}),
    "PRM, default": Arm({"allocation": "fixed"}, reward="prm"),
    "PRM, rounds": Arm({"allocation": "rounds"}, reward="prm"),
    **{
        f"PRM, T = {temperature:g}, tau = {threshold:g}": static(temperature, threshold, reward="prm")
        for temperature in (1.0, 0.8, 0.6)
        for threshold in (0.0, 0.3, 0.5)
    },
    "long, T = 0.8": static(0.8, iterations=20),
    "long, T = 0.6": static(0.6, iterations=20),
    "long, default": Arm({"allocation": "rounds"}, iterations=20),
}
DEFAULT = "+ rounds"
Summary = dict[str, Any]


def train(name: str, seed: int, folder: Path) -> None:
    """One run, in this process."""
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
    warnings.filterwarnings("ignore")
    import torch

    from bstar_trl import BalanceCallback
    from bstar_trl.testbed.demo import TEMPERATURES, train_policy

    torch.set_num_threads(1)
    arm = ARMS[name]
    balance = BalanceCallback(**{"temperatures": TEMPERATURES, **arm.options})
    train_policy(
        folder,
        balance,
        iterations=arm.iterations,
        seed=seed,
        reward=arm.reward,
        queries=arm.queries,
        measure_every=4,
    )
    path = folder / "summary.json"
    path.write_text(json.dumps(described(arm) | _rounded(json.loads(path.read_text()))) + "\n")


def described(arm: Arm) -> dict[str, Any]:
    """What a result is the result of, as it stands in its file."""
    return {"arm": dataclasses.asdict(arm)}


def _rounded(value: Any) -> Any:
    """The same with floats to five decimals: the files are kept."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 5) if isinstance(value, float) else value


def read(output_dir: Path, name: str, seed: int) -> Summary | None:
    """A finished run's summary, or `None`; a result of other options counts as none."""
    path = folder_of(output_dir, name, seed) / "summary.json"
    summary = json.loads(path.read_text()) if path.exists() else {}
    return summary if summary.get("arm") == described(ARMS[name])["arm"] else None


def interval(values: Sequence[float] | np.ndarray) -> str:
    """Mean and half of its 95 % interval."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.3f}"
    return f"{mean:.3f} ± {stats.t.ppf(0.975, len(values) - 1) * stats.sem(values):.3f}"


def mean_of(rows: Sequence[dict[str, Any]], key: str) -> str:
    """The mean of a column; runs from before it was recorded hold none."""
    values = [row[key] for row in rows if row.get(key) is not None]
    return f"{np.mean(values):.3f}" if values else "-"


def table(results: dict[str, dict[int, Summary]]) -> Iterator[str]:
    """The table, line by line, in Markdown."""
    yield (
        f"| arm | seeds | {' | '.join(FIGURES)} | completions | lucky, selected | available | estimated | "
        "temperatures of seed 0 |"
    )
    yield "| --- |" + " --- |" * (len(FIGURES) + 6)
    for name, by_seed in results.items():
        rows = [row for summary in by_seed.values() for row in summary["iterations"]]
        cells = [interval([summary["final"][figure] for summary in by_seed.values()]) for figure in FIGURES]
        completions = np.mean([row["completions"] for row in rows])
        keys = ("lucky_share", "lucky_share_available", "estimated_lucky_share")
        chosen, true, estimated = (mean_of(rows, key) for key in keys)
        temperatures = " ".join(f"{row['temperature']:g}" for row in by_seed[min(by_seed)]["iterations"])
        yield (
            f"| {name} | {len(by_seed)} | {' | '.join(cells)} | {completions:,.0f} | {chosen} | {true} "
            f"| {estimated} | {temperatures} |"
        )


Pairs = Callable[[str, str, str], np.ndarray]


def differences(results: dict[str, dict[int, Summary]]) -> Pairs:
    """Paired by seed: `pairs(arm, rival, figure)`, over the seeds that both have."""

    def pairs(arm: str, rival: str, figure: str) -> np.ndarray:
        mine, theirs = results.get(arm, {}), results.get(rival, {})
        common = sorted(mine.keys() & theirs.keys())
        return np.array([mine[seed]["final"][figure] - theirs[seed]["final"][figure] for seed in common])

    return pairs


def comparisons(results: dict[str, dict[int, Summary]]) -> Iterator[str]:
    """What the bars ask, as far as the runs are there."""
    pairs = differences(results)
    tests = []
    for rival in ("T = 1", "paper"):
        for figure in JUDGED:
            gained = pairs(DEFAULT, rival, figure)
            if len(gained) > 1:
                p = stats.ttest_1samp(gained, 0.0, alternative="greater").pvalue
                tests.append(
                    (float(p), f"default above {rival!r} in {figure}: {interval(gained)}, {len(gained)} seeds")
                )
    bound = 0.0
    for place, (p, text) in enumerate(sorted(tests)):
        bound = max(bound, min(1.0, p * (len(tests) - place)))  # Holm
        yield f"{text}, one-sided p = {p:.2g}, after Holm {bound:.2g}"
    for figure, allowed in zip(JUDGED, (-0.01, -0.03), strict=True):
        gained = pairs("+ rounds", "+ slices", figure)
        if len(gained):
            yield f"rounds against fixed K in {figure}: {interval(gained)}, {len(gained)} seeds (bar {allowed})"
    if rounds := results.get("+ rounds"):
        used = [row["completions"] / (300 * GENERATIONS) for item in rounds.values() for row in item["iterations"]]
        yield f"completions of rounds: {np.mean(used):.3f} of N x K (bar 0.80)"
    yield from against_constants(results, "PRM, default", [name for name in ARMS if name.startswith("PRM, T")], JUDGED)
    yield from against_constants(
        results, "long, default", ["long, T = 0.8", "long, T = 0.6"], ("greedy_valid_6", "distinct_valid_6")
    )


def against_constants(
    results: dict[str, dict[int, Summary]], arm: str, constants: Sequence[str], figures: Sequence[str]
) -> Iterator[str]:
    """An arm beside the best of some constants in each figure, and beside T = 1 where that is among them."""

    def values(name: str, figure: str) -> list[float]:
        return [summary["final"][figure] for summary in results[name].values()]

    there = [name for name in constants if name in results]
    for figure in figures if arm in results and there else ():
        mine, best = values(arm, figure), max(there, key=lambda name: float(np.mean(values(name, figure))))
        beside = dict.fromkeys([best, *(name for name in there if name.endswith("T = 1, tau = 0"))])
        for name in beside:
            theirs = values(name, figure)
            error = math.hypot(*(float(stats.sem(part)) if len(part) > 1 else math.nan for part in (mine, theirs)))
            yield (
                f"{arm!r} ({len(mine)} seeds) against {name!r} ({len(theirs)}"
                f"{', the best constant' if name == best else ''}) in {figure}: {np.mean(mine):.3f} - "
                f"{np.mean(theirs):.3f} = {np.mean(mine) - np.mean(theirs):+.3f}, standard error {error:.3f}"
            )


def main() -> int:
    """Make the missing runs and print what all of them say; 1 if a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time, each on one core")
    parser.add_argument("--output-dir", type=Path, default=RESULTS)
    parser.add_argument("--run", nargs=2, metavar=("NAME", "SEED"), help="one run in this process")
    parsed = parser.parse_args()
    if parsed.run:
        name, seed = parsed.run[0], int(parsed.run[1])
        train(name, seed, folder_of(parsed.output_dir, name, seed))
        return 0
    missing = [
        (name, seed)
        for seed in range(parsed.seeds)
        for name in parsed.arms
        if read(parsed.output_dir, name, seed) is None
    ]
    command = [sys.executable, __file__, "--output-dir", str(parsed.output_dir), "--run"]
    complete = finish(missing, lambda name, seed: [*command, name, str(seed)], parsed.output_dir, jobs=parsed.jobs)
    results: dict[str, dict[int, Summary]] = {}
    for name in ARMS:
        found = {seed: summary for seed in range(1000) if (summary := read(parsed.output_dir, name, seed))}
        if found:
            results[name] = found
    print("\n".join([*table(results), "", *comparisons(results)]))
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
