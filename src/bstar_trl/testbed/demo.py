"""The demo: B-STaR on the testbed with the real trainer, in minutes on a CPU."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, ProgressCallback, TrainerCallback

from ..callback import BalanceCallback
from ..config import BSTaRConfig
from ..errors import ConfigurationError
from ..records import Rollouts, Selection, Setting
from ..rewards import ProcessReward
from ..training.trainer import BSTaRTrainer
from . import policy_path, prm_path
from .measure import measure
from .rewards import SumMatch
from .task import is_valid, make_dataset

QUERIES = 300
GENERATIONS = 16
REWARD_METRIC = f"reward@{GENERATIONS}-4"  # whether the 4 responses with the highest rewards are right
SAMPLES = 1200  # n* = 4
STEPS = 60
BATCH_SIZE = 64
TEMPERATURES = (0.4, 0.6, 0.8, 1.0, 1.2, 1.4)
TRAINING_SUMS = 20_000
MIX = (5, 5, 6)  # terms of the training sums

Summary = dict[str, Any]


class DemoTrainer(BSTaRTrainer):
    """Also measures how many right answers stand at the end of wrong chains, which only a testbed knows."""

    lucky_share = 0.0  # of the selected responses
    lucky_share_available = 0.0  # of the correct ones above the threshold: what `select/lucky_share` estimates

    def select_responses(self, rollouts: Rollouts, setting: Setting) -> Selection:
        """The parent's selection."""
        selection = super().select_responses(rollouts, setting)
        grids = rollouts.grids
        available_NK = grids.selectable_NK & grids.correct_NK & (grids.rewards_NK > setting.threshold)
        self.lucky_share = self._lucky_share(selection.rollouts)
        self.lucky_share_available = self._lucky_share(rollouts.take(grids.index_NK[available_NK]))
        return selection

    def _lucky_share(self, rollouts: Rollouts) -> float:
        completions = rollouts.reader.read(rollouts.rows_R)
        prompts = [self.queries[item.query_id]["prompt"] for item in completions]
        triples = zip(prompts, completions, rollouts.correct_R, strict=True)
        lucky = [right and not is_valid(prompt, item.text) for prompt, item, right in triples]
        return sum(lucky) / max(1, len(lucky))


class _Observer(TrainerCallback):
    """Records each iteration, measures the policy after some of them, and shows a progress bar within each."""

    def __init__(self, measured: Callable[[], dict[str, float]], every: int, on_row: Callable[[Summary], None]):
        self.measured = measured
        self.every = every
        self.on_row = on_row
        self.trainer: DemoTrainer
        self.rows: list[Summary] = []
        self._started = time.perf_counter()
        self._bar: tqdm | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One row per iteration."""
        if self._bar is None:
            self._bar = tqdm(total=STEPS, desc="Training", leave=False)
        self._bar.update()
        if state.global_step % STEPS:
            return
        self._bar.close()
        self._bar = None
        seconds = time.perf_counter() - self._started
        balance, figures = self.trainer.balance.history[-1], self.trainer.figures
        row = {
            "temperature": balance["balance/temperature"],
            "threshold": balance["balance/threshold"],
            "balance_score": balance["balance/score"],
            "selected": int(figures["select/samples"]),
            "lucky_share": self.trainer.lucky_share,
            "lucky_share_available": self.trainer.lucky_share_available,
            "estimated_lucky_share": balance["select/lucky_share"],
            REWARD_METRIC: figures[f"explore/{REWARD_METRIC}"],
            "completions": int(figures["explore/completions"] + balance["balance/extra_completions"]),
            "seconds": seconds,
        }
        if (len(self.rows) + 1) % self.every == 0 or state.global_step == state.max_steps:
            row |= self.measured()
        self.rows.append(row)
        self.on_row(row)
        self._started = time.perf_counter()


def run_demo(
    output_dir: str | Path,
    *,
    iterations: int = 8,
    seed: int = 0,
    static: bool = False,
    reward: Literal["answer", "prm"] = "prm",
    setting: tuple[float, float] = (1.0, 0.0),
    save_policy: bool = False,
    on_row: Callable[[Summary], None] = lambda row: None,
) -> Summary:
    """Train the testbed's policy and measure it after each iteration; on the CPU, in fp32.

    Args:
        output_dir (`str` or `Path`): receives `summary.json`.
        iterations (`int`): rounds of explore, score, select, improve.
        seed (`int`): of data, sampling and training.
        static (`bool`): a fixed setting, and as many responses to every query, instead of a balanced run.
        reward (`str`): `"prm"`: the answer and the testbed's process reward model; `"answer"`: the answer alone.
        setting (`tuple[float, float]`): temperature and threshold of a static run.
        save_policy (`bool`): save the trained policy in the folder `policy` of `output_dir`.
        on_row: receives the figures before the first iteration and after each one.

    Returns:
        `dict`: `initial`, `iterations` and `final` figures, as in `summary.json`.

    Raises:
        ConfigurationError: `output_dir` cannot be written to.
    """
    balance = BalanceCallback(*setting, allocation="fixed") if static else BalanceCallback(TEMPERATURES)
    return train_policy(
        output_dir,
        balance,
        iterations=iterations,
        seed=seed,
        reward=reward,
        save_policy=save_policy,
        on_row=on_row,
    )


def train_policy(
    output_dir: str | Path,
    balance: BalanceCallback,
    *,
    iterations: int,
    seed: int,
    reward: Literal["answer", "prm"],
    queries: int = QUERIES,
    measure_every: int = 1,
    save_policy: bool = False,
    on_row: Callable[[Summary], None] = lambda row: None,
) -> Summary:
    """The demo with any balance. Arguments, result and errors as of [`run_demo`], and:

    Args:
        balance (`BalanceCallback`): how it chooses.
        queries (`int`): N, queries of an iteration.
        measure_every (`int`): iterations between two measurements of the policy; the last one is always measured.
    """
    try:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"output_dir must be a writable folder, got {output_dir}: {error}") from None
    tokenizer = AutoTokenizer.from_pretrained(policy_path())
    model = AutoModelForCausalLM.from_pretrained(policy_path(), dtype=torch.float32)

    def measured() -> dict[str, float]:
        return measure(model, tokenizer, seed=seed)

    observer = _Observer(measured, measure_every, on_row)
    trainer = DemoTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=[SumMatch(), ProcessReward(prm_path(), dtype=torch.float32)] if reward == "prm" else [SumMatch()],
        args=arguments(output_dir, max_steps=iterations * STEPS, queries_per_iteration=queries, seed=seed),
        train_dataset=make_dataset(TRAINING_SUMS, MIX, seed=seed),
        callbacks=[balance, observer],
    )
    trainer.remove_callback(ProgressCallback)  # it prints every log line; the table has one row per iteration
    observer.trainer = trainer
    initial = measured()
    on_row(initial)
    trainer.train()
    if save_policy:
        trainer.save_model(str(Path(output_dir) / "policy"))
    final = {name: observer.rows[-1][name] for name in initial}
    summary = {"initial": initial, "iterations": observer.rows, "final": final}
    (Path(output_dir) / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def arguments(output_dir: str | Path, **changes: Any) -> BSTaRConfig:
    """The demo's settings, with changes; `max_steps` and `queries_per_iteration` must be among them."""
    settings: dict[str, Any] = {
        "output_dir": str(output_dir),
        "iteration_steps": STEPS,
        "samples_per_iteration": SAMPLES,
        "num_generations": GENERATIONS,
        "per_device_train_batch_size": BATCH_SIZE,
        "generation_chunk_size": 1600,
        "max_completion_length": 40,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "linear",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "report_to": "none",
    }
    return BSTaRConfig(**settings | changes)
