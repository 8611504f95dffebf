"""How many completions step labels cost on the testbed, compared with the plain method.

    python benchmarks/annotate.py

100 sums of 5, 5 or 6 terms, 15 solutions each from the shipped policy at T = 1, 8 completions per step. The plain
method completes every step of every solution 8 times. `annotate` gets the same distribution of labels with fewer:
- soft labels (the share of right completions): it completes common steps once, and the end of a solution not at all;
- hard labels (whether any completion is right): it also stops at the first right completion.
A second ratio leaves out the last steps of finished solutions, which the plain method could skip too.
"""

from __future__ import annotations

import time

import torch

from bstar_trl.engines import TransformersEngine
from bstar_trl.prm_training.annotate import Annotator, Recipe
from bstar_trl.testbed import policy_path
from bstar_trl.testbed.rewards import SumMatch
from bstar_trl.testbed.task import make_dataset

QUERIES = 100
BAR = 0.5  # largest ratio for hard labels


def main() -> None:
    torch.set_num_threads(1)
    engine = TransformersEngine(policy_path(), batch_size=800)
    queries = list(make_dataset(QUERIES, seed=11))
    print(f"{QUERIES} queries, 15 solutions, 8 completions a step\n")
    titles = ("labels", "steps", "right", "plain", "sampled", "ratio", "of open steps", "seconds")
    print("".join(f"{title:>14}" for title in titles))
    ratios = {}
    for labels in ("soft", "hard"):
        recipe = Recipe(labels=labels, separator="=", max_new_tokens=40, group_size=QUERIES)
        started = time.perf_counter()
        counts = Annotator(engine, SumMatch(), recipe).annotate(queries).counts
        seconds = time.perf_counter() - started
        ratios[labels] = counts.completions / counts.naive
        cells = (
            labels,
            counts.steps,
            f"{counts.right_steps / counts.steps:.3f}",
            counts.naive,
            counts.completions,
            f"{ratios[labels]:.3f}",
            f"{counts.completions / counts.naive_open:.3f}",
            f"{seconds:.1f}",
        )
        print("".join(f"{cell:>14}" for cell in cells))
    if ratios["hard"] > BAR:
        raise AssertionError(f"hard labels cost {ratios['hard']:.3f} of the plain method, more than {BAR}")


if __name__ == "__main__":
    main()
