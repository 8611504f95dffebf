"""`bstar-trl demo`."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from typing import Any

from .values import positive, seed, setting

TABLE = (
    ("temperature", "T", "{:.1f}"),
    ("threshold", "tau", "{:.2f}"),
    ("balance_score", "balance", "{:.3f}"),
    ("selected", "selected", "{:d}"),
    ("lucky_share", "lucky", "{:.3f}"),
    ("estimated_lucky_share", "estimate", "{:.3f}"),
    ("completions", "sampled", "{:d}"),
    ("reward@16-4", "rwd@16-4", "{:.3f}"),
    ("pass@1", "pass@1", "{:.3f}"),
    ("valid@1", "valid@1", "{:.3f}"),
    ("distinct_valid", "distinct", "{:.2f}"),
    ("valid@1_6", "valid@1_6", "{:.3f}"),
    ("greedy_valid_6", "greedy_6", "{:.3f}"),
    ("seconds", "seconds", "{:.0f}"),
)


def add_to(commands: Any) -> None:
    """Add the command."""
    demo = commands.add_parser(
        "demo",
        help="train a tiny policy on sums modulo 10, on the CPU, in minutes",
        description="B-STaR on the testbed: a tiny policy learns to add modulo 10 from its own chains of reasoning. "
        "Writes summary.json and curves.png.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument("--output_dir", default="demo-out", metavar="DIR", help="where the results go")
    demo.add_argument("--iterations", type=positive, default=8, metavar="N", help="iterations to train")
    demo.add_argument("--seed", type=seed, default=0, help="seed of data, sampling and training")
    demo.add_argument(
        "--static",
        action="store_true",
        help="fixed temperature 1 and threshold 0, and 16 responses to every query",
    )
    demo.add_argument(
        "--reward",
        choices=("prm", "answer"),
        default="prm",
        help="prm: the answer and a process reward model; answer: the answer alone",
    )
    demo.add_argument(
        "--setting",
        type=setting,
        metavar="T,TAU",
        help="temperature and threshold of a --static run instead of 1.0,0.0",
    )
    demo.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    from pathlib import Path

    from ..reports.curves import load_pyplot
    from ..testbed.plots import plot_demo

    load_pyplot()  # a missing matplotlib must fail before the training, not after it
    # The libraries' warnings to developers would interrupt the table.
    warnings.filterwarnings("ignore", category=FutureWarning)
    import torch
    from tqdm.auto import tqdm

    # A second thread does not speed up so small a model, and with one thread every machine gives the same figures.
    torch.set_num_threads(1)

    from ..testbed.demo import run_demo

    rows = 0

    def show(row: dict[str, Any]) -> None:
        nonlocal rows
        cells = [template.format(row[name]) if name in row else "" for name, _, template in TABLE]
        tqdm.write(_line("start" if rows == 0 else str(rows), cells))
        rows += 1

    method = "static" if parsed.static else "balanced"
    print(f"B-STaR on sums modulo 10: {method}, reward {parsed.reward}, seed {parsed.seed}")
    print(_line("iteration", [title for _, title, _ in TABLE]))
    summary = run_demo(
        parsed.output_dir,
        iterations=parsed.iterations,
        seed=parsed.seed,
        static=parsed.static,
        reward=parsed.reward,
        setting=parsed.setting or (1.0, 0.0),
        on_row=show,
    )
    picture = Path(parsed.output_dir) / "curves.png"
    plot_demo({method: summary}, picture)
    initial, final = summary["initial"]["valid@1"], summary["final"]["valid@1"]
    print(f"valid@1 went from {initial:.3f} to {final:.3f}.")
    print(f"Figures: {Path(parsed.output_dir) / 'summary.json'}\nCurves: {picture}")
    return 0


def _line(first: str, cells: Sequence[str]) -> str:
    return f"{first:>9}" + "".join(f"{cell:>10}" for cell in cells)
