"""The pictures of docs/reading-curves.md: `python benchmarks/curves.py --output_dir curves [--only NAME]`.

Each case is a training of the testbed's tiny policy on the CPU, made to go well or to go wrong in one way. A run
leaves `<output_dir>/<name>.json`, its figures by iteration under the names of the logs. A case that has this file is
not run again, so an interrupted benchmark goes on with what is missing; delete the files of cases that have changed.
Each case is then drawn as `<output_dir>/curves-<name>.png`. A case takes two or three minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Before the libraries below are imported, which read them.
os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, ProgressCallback

from bstar_trl import BalanceCallback
from bstar_trl.errors import EmptySelectionError
from bstar_trl.records import Rollouts, Selection, Setting
from bstar_trl.reports.curves import Panel, plot_curves
from bstar_trl.reports.history import Row, iteration_rows
from bstar_trl.rewards import ProcessReward
from bstar_trl.rewards.base import RewardFn, Score
from bstar_trl.testbed import policy_path, prm_path
from bstar_trl.testbed.demo import GENERATIONS, TEMPERATURES, DemoTrainer, arguments
from bstar_trl.testbed.rewards import SumMatch
from bstar_trl.testbed.task import answer_of, is_valid, make_dataset

TARGET = 4  # n*: correct responses wanted of a query
HELD_OUT = 100
TRUE_LUCK = "true_lucky_share"  # only a testbed knows it


class ParityMatch(SumMatch):
    """A verifier that asks only whether the answer is even or odd: half of all guesses are right."""

    def score(self, prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]) -> list[Score]:
        """1 if the answer and the gold answer are both even or both odd."""
        pairs = zip(map(answer_of, completions), columns["answer"], strict=True)
        return [Score(float(found is not None and int(found) % 2 == int(gold) % 2)) for found, gold in pairs]


class ChainMatch(RewardFn):
    """A strict verifier: every step of the chain must follow from the step before."""

    is_verifier = True

    def score(self, prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]) -> list[Score]:
        """1 for a valid chain."""
        return [Score(float(is_valid(*pair))) for pair in zip(prompts, completions, strict=True)]


class ReversedReward(ProcessReward):
    """A scorer whose sign is wrong: it gives its highest value to the worst step."""

    def score(self, prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]) -> list[Score]:
        """Minus the values of the process reward model."""
        scores = super().score(prompts, completions, **columns)
        return [Score(None if item.value is None else -item.value, item.reason) for item in scores]


@dataclass(frozen=True)
class Case:
    """A run and its picture.

    Args:
        panels: what is drawn, under the names of the logs.
        balance: arguments of the callback, besides the demo's temperatures.
        mix: numbers of terms of the sums, in turn: more terms are harder.
        rows: of the dataset.
        queries: N, queries of an iteration.
        steps: optimizer steps of an iteration.
        iterations: of the run.
        rewards: names in `REWARDS`.
        learning_rate: of the run.
        beside: other cases whose curves are drawn into the picture.
    """

    panels: tuple[Panel, ...]
    balance: Mapping[str, Any] = field(default_factory=dict)
    mix: tuple[int, ...] = (5, 5, 6)
    rows: int = 20_000
    queries: int = 300
    steps: int = 60
    iterations: int = 8
    rewards: tuple[str, ...] = ("answer",)
    learning_rate: float = 1e-3
    beside: tuple[str, ...] = ()


REWARDS: dict[str, Callable[[], RewardFn]] = {
    "answer": SumMatch,
    "parity": ParityMatch,
    "chain": ChainMatch,
    "prm": lambda: ProcessReward(prm_path(), dtype=torch.float32),
    "reversed prm": lambda: ReversedReward(prm_path(), dtype=torch.float32, name="ReversedReward"),
}


def constant(temperature: float) -> dict[str, Any]:
    """A setting that never changes, and K responses to every query."""
    return {"temperatures": temperature, "thresholds": 0.0, "allocation": "fixed"}


EVAL_1 = Panel("eval_pass@1", "eval_pass@1", is_share=True)
EVAL_K = Panel("eval_pass@K", "eval_pass@K", is_share=True)
EVAL_K4 = Panel("eval_pass@K-4", "eval_pass@K-4", is_share=True)


def share(name: str) -> Panel:
    """A panel of a figure between 0 and 1, titled by its name in the logs."""
    return Panel(name, name, is_share=True)


def number(name: str) -> Panel:
    """A panel of any other figure."""
    return Panel(name, name)


CASES: dict[str, Case] = {
    "healthy": Case(
        (
            EVAL_1,
            EVAL_K,
            EVAL_K4,
            number("balance/temperature"),
            number("select/samples"),
            share("select/lucky_share"),
        )
    ),
    "collapse": Case(
        (
            EVAL_1,
            EVAL_K,
            EVAL_K4,
            share("explore/pass@1"),
            share("explore/distinct"),
            number("explore/unique_correct"),
        ),
        constant(0.6),
        rows=60,
        queries=60,
        beside=("healthy",),
    ),
    "stall": Case(
        (
            EVAL_1,
            EVAL_K,
            EVAL_K4,
            share("explore/pass@K"),
            share("explore/solved_sometimes"),
            number("select/samples"),
        ),
        constant(0.4),
        mix=(5, 6, 7),
        rows=100,
        queries=100,
        steps=20,
        iterations=12,
    ),
    "bad-reward": Case(
        (
            EVAL_1,
            share("explore/agreement"),
            share("select/correct"),
            share("explore/best_of_K"),
            share("explore/pass@K"),
            number("balance/threshold"),
        ),
        rewards=("answer", "reversed prm"),
        iterations=5,
    ),
    "luck": Case(
        (
            share("select/lucky_share"),
            Panel(TRUE_LUCK, "true share (known on the testbed)", is_share=True),
            share("explore/pass@K-4"),
            EVAL_1,
            share("explore/distinct"),
            share("balance/score"),
        ),
        constant(1.2),
        rewards=("parity",),
        iterations=6,
    ),
    "too-hard": Case(
        (
            share("explore/solved_never"),
            share("explore/pass@K"),
            share("frac_reward_zero_std"),
            number("select/samples"),
            number("balance/extra_completions"),
            EVAL_K,
        ),
        constant(1.0),
        mix=(6, 8, 8, 8, 8, 8),
        rewards=("chain",),
        iterations=6,
    ),
    "too-easy": Case(
        (
            share("explore/solved_always"),
            share("explore/pass@1"),
            share("eval_greedy_pass@1"),
            EVAL_1,
            number("select/samples"),
            number("explore/completions"),
        ),
        mix=(4,),
        rows=4_000,
        iterations=6,
    ),
}


class CaseTrainer(DemoTrainer):
    """Remembers the true share of lucky responses, an iteration at a time."""

    true_shares: tuple[float, ...] = ()

    def select_responses(self, rollouts: Rollouts, setting: Setting) -> Selection:
        """The parent's selection."""
        selection = super().select_responses(rollouts, setting)
        if len(selection):
            self.true_shares += (self.lucky_share_available,)
        return selection


def run(name: str, output_dir: Path, seed: int = 0) -> None:
    """Train one case, and leave its figures by iteration."""
    case, began = CASES[name], time.perf_counter()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        trainer = CaseTrainer(
            model=AutoModelForCausalLM.from_pretrained(policy_path(), dtype=torch.float32),
            processing_class=AutoTokenizer.from_pretrained(policy_path()),
            reward_funcs=[REWARDS[reward]() for reward in case.rewards],
            args=arguments(
                folder,
                max_steps=case.iterations * case.steps,
                iteration_steps=case.steps,
                queries_per_iteration=case.queries,
                samples_per_iteration=TARGET * case.queries,
                max_completion_length=72 if max(case.mix) > 6 else 40,
                learning_rate=case.learning_rate,
                logging_steps=case.steps,
                eval_strategy="steps",
                eval_steps=case.steps,
                eval_on_start=True,
                seed=seed,
                disable_tqdm=True,
            ),
            train_dataset=make_dataset(case.rows, case.mix, seed=seed),
            eval_dataset=make_dataset(HELD_OUT, case.mix, seed=seed, held_out=True),
            callbacks=[BalanceCallback(**{"temperatures": TEMPERATURES, **case.balance})],
        )
        trainer.remove_callback(ProgressCallback)
        try:
            trainer.train()
        except EmptySelectionError as error:
            print(error)  # the curves end here
    rows = iteration_rows(trainer.state.log_history)
    for row, value in zip(rows[1:], trainer.true_shares, strict=False):
        row[TRUE_LUCK] = value
    result = {"seconds": time.perf_counter() - began, "rows": rows}
    (output_dir / f"{name}.json").write_text(json.dumps(result) + "\n", encoding="utf-8")


def rows_of(name: str, output_dir: Path) -> list[Row]:
    """A finished run's figures."""
    found: list[Row] = json.loads((output_dir / f"{name}.json").read_text(encoding="utf-8"))["rows"]
    return found


def draw(name: str, output_dir: Path) -> None:
    """The picture of a case whose runs are there."""
    case = CASES[name]
    runs = {label: rows_of(label, output_dir) for label in (name, *case.beside)}
    panels = [filled for panel in case.panels for filled in panel.filled([GENERATIONS])]
    plot_curves(runs, output_dir / f"curves-{name}.png", panels)


def with_needed(names: Sequence[str]) -> list[str]:
    """These cases, and before each one those that are drawn beside it."""
    return list(dict.fromkeys(item for name in names for item in (*CASES[name].beside, name)))


def main() -> None:
    """Make the missing runs, then the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("curves"))
    parser.add_argument("--only", choices=list(CASES), metavar="NAME", help=f"one of {', '.join(CASES)}")
    parsed = parser.parse_args()
    warnings.filterwarnings("ignore")
    parsed.output_dir.mkdir(parents=True, exist_ok=True)
    names = [parsed.only] if parsed.only else list(CASES)
    for name in with_needed(names):
        if not (parsed.output_dir / f"{name}.json").exists():
            print(f"{time.strftime('%X')} {name}", flush=True)
            run(name, parsed.output_dir)
    for name in names:
        draw(name, parsed.output_dir)
        print(parsed.output_dir / f"curves-{name}.png")


if __name__ == "__main__":
    main()
