"""The demo's promises, over seeds 0-2 and every rival: `python benchmarks/soak.py [--output-dir soak-out]`.

Runs `bstar-trl demo` for each method and seed (existing results are reused), draws the README's picture from seed 0,
prints a table of means, and exits with 1 if a promise is broken: for every seed B-STaR's final `valid@1` is at least
1.5 times the initial one and above the static run's; `valid@32-4` and `distinct_valid`, as means over seeds, end
higher than they begin. A run takes about six minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bstar_trl.testbed.plots import plot_curves

METHODS = {
    "B-STaR": (),
    "T = 1, tau = 0": ("--static",),
    "answer only, T = 1": ("--static", "--reward", "answer"),
    "T = 0.8, tau = 0.5": ("--static", "--setting", "0.8,0.5"),
}
PICTURED = ("B-STaR", "T = 1, tau = 0", "answer only, T = 1")
FIGURES = (
    "valid@1",
    "greedy_valid",
    "valid@32-4",
    "distinct_valid",
    "valid@1_6",
    "greedy_valid_6",
    "distinct_valid_6",
)


def run(folder: Path, words: tuple[str, ...], seed: int) -> dict[str, Any]:
    """A demo's summary, read from its folder if it has run before."""
    summary = folder / "summary.json"
    if not summary.exists():
        demo = [sys.executable, "-m", "bstar_trl.cli", "demo", "--output-dir", str(folder), "--seed", str(seed)]
        subprocess.run([*demo, *words], check=True)
    return json.loads(summary.read_text())


def row(label: str, figures: dict[str, float], lucky: str = "") -> str:
    """A row of the Markdown table."""
    return f"| {label} | " + " | ".join(f"{figures[name]:.3f}" for name in FIGURES) + f" | {lucky} |"


def broken_promises(balanced: list[dict[str, Any]], static: list[dict[str, Any]]) -> list[str]:
    """The broken promises, as sentences."""
    broken = []
    for seed, (ours, theirs) in enumerate(zip(balanced, static, strict=True)):
        before, after, rival = ours["initial"]["valid@1"], ours["final"]["valid@1"], theirs["final"]["valid@1"]
        if after < 1.5 * before:
            broken.append(f"seed {seed}: valid@1 {before:.3f} -> {after:.3f}, less than 1.5 times")
        if after <= rival:
            broken.append(f"seed {seed}: valid@1 {after:.3f} is not above the static run's {rival:.3f}")
    for name in ("valid@32-4", "distinct_valid"):
        before, after = (np.mean([item[when][name] for item in balanced]) for when in ("initial", "final"))
        if after <= before:
            broken.append(f"mean {name} {before:.3f} -> {after:.3f}")
    return broken


def main() -> int:
    """Run the missing demos, print the table, check the promises."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("soak-out"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--picture", type=Path, help="where to draw seed 0's curves")
    parsed = parser.parse_args()
    runs = {
        label: [
            run(parsed.output_dir / f"{label.replace(' ', '')}-{seed}", words, seed) for seed in range(parsed.seeds)
        ]
        for label, words in METHODS.items()
    }
    print("| method | " + " | ".join(FIGURES) + " | lucky share of the selected |")
    print("| --- |" + " --- |" * (len(FIGURES) + 1))
    start = [item["initial"] for item in runs["B-STaR"]]
    print(row("start", {name: float(np.mean([item[name] for item in start])) for name in FIGURES}))
    for label, summaries in runs.items():
        mean = {name: float(np.mean([item["final"][name] for item in summaries])) for name in FIGURES}
        lucky = np.mean([line["lucky_share"] for item in summaries for line in item["iterations"]])
        print(row(label, mean, f"{lucky:.3f}"))
    for label in PICTURED[:2]:
        each = ", ".join(f"{item['final']['valid@1']:.3f}" for item in runs[label])
        print(f"valid@1 by seed, {label}: {each}")
    if parsed.picture is not None:
        plot_curves({label: runs[label][0] for label in PICTURED}, parsed.picture)
    broken = broken_promises(runs["B-STaR"], runs["T = 1, tau = 0"])
    print("\n".join(broken) or "Every promise holds.")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
