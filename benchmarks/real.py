"""A real language model on word problems:

    python benchmarks/real.py --model start --train words_train.jsonl --test words_test.jsonl svamp_test.jsonl

Arms x seeds, every run a process of its own that goes on at its last iteration when it is started again: five
iterations of 150 queries x 8 responses; an arm with a probe pays for it out of that. `--model` is what
`examples/word_problems/sft.py` wrote. The first 100 rows of each `--test` file are judged greedily and with 8 samples
at T = 1. Then prints a table with 95 % intervals (bootstrap over seeds and queries, paired with the start) and writes
curves.png.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from runs import finish, folder_of
from transformers import TrainerCallback

EXAMPLE = Path(__file__).parents[1] / "examples" / "word_problems"
RESULTS = Path(__file__).parent / "results" / "real"
ITERATIONS, STEPS, BATCH = 5, 20, 15
QUERIES, GENERATIONS = 150, 8
TARGET = 2.0  # n*: at the start one of seven samples is right
LENGTH = 64  # tokens of a response at most; the solutions have about 25
TEST_ROWS = 100
LEARNING_RATE = 2e-4
DRAWS = 2000  # of the bootstrap
Summary = dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """A way to train: the callback's arguments and the queries of an iteration; or another trainer."""

    options: dict[str, Any] = field(default_factory=dict)
    queries: int = QUERIES
    kind: str = "bstar"


STATIC = {"thresholds": 0.0, "allocation": "fixed"}
ARMS = {
    "start": Arm(kind="none"),
    "SFT": Arm(kind="sft"),
    "Online RFT": Arm({"temperatures": 1.0, **STATIC}),
    "T = 0.7": Arm({"temperatures": 0.7, **STATIC}),
    # 5 % of the queries at each of eight temperatures: 112 x 8, and 5 x 8 x 7 that are thrown away.
    "paper": Arm(kind="paper", queries=112),
    "default": Arm(),
    "GRPO": Arm(kind="grpo"),
}


# ---------------------------------------------------------------------- one run


def train(name: str, seed: int, folder: Path, options: argparse.Namespace) -> None:
    """One run, in this process; goes on at its last checkpoint."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
    warnings.filterwarnings("ignore")
    sys.path.insert(0, str(EXAMPLE))
    import torch

    arm, rows = ARMS[name], read_rows(options.train)
    trained = {"none": _untrained, "sft": _sft, "grpo": _grpo}.get(arm.kind, _bstar)
    model, tokenizer, figures = trained(arm, seed, folder, options.model, rows)
    figures["minutes"] = sum(Clock(folder).parts().values()) / 60
    torch.manual_seed(seed)
    judged = {
        Path(path).stem: judge(model, tokenizer, read_rows(path)[:TEST_ROWS], seed, folder) for path in options.test
    }
    (folder / "summary.json").write_text(json.dumps({"figures": figures, "judged": judged}) + "\n")


class Clock(TrainerCallback):
    """Writes down how long a run has trained, the parts before interruptions too."""

    def __init__(self, folder: Path):
        self.path = folder / "seconds.json"
        self.began, self.part = time.perf_counter(), str(time.time())

    def parts(self) -> dict[str, float]:
        """Seconds of each part until its last checkpoint."""
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """At every checkpoint."""
        self.path.write_text(json.dumps(self.parts() | {self.part: time.perf_counter() - self.began}))


def read_rows(path: str) -> list[dict[str, str]]:
    """Rows with `prompt`, `answer` and `solution`, the prompt as the model is asked it."""
    from problems import as_query

    rows = map(json.loads, Path(path).read_text().splitlines())
    return [{"prompt": as_query(row), "answer": row["answer"], "solution": row["solution"]} for row in rows]


def _load(path: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32), AutoTokenizer.from_pretrained(path)


def _lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear")


def _arguments(folder: Path, seed: int) -> dict[str, Any]:
    """What all trainers are told."""
    import torch

    return {
        "output_dir": str(folder / "run"),
        "seed": seed,
        "learning_rate": LEARNING_RATE,
        "max_steps": ITERATIONS * STEPS,
        "per_device_train_batch_size": BATCH,
        "save_steps": STEPS,
        "save_total_limit": 1,
        "logging_steps": STEPS,
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": True,
        "use_cpu": not torch.cuda.is_available(),
    }


def _resumed(folder: Path) -> bool:
    return any((folder / "run").glob("checkpoint-*/trainer_state.json"))


def _untrained(arm: Arm, seed: int, folder: Path, path: str, rows: list[dict[str, str]]) -> tuple[Any, Any, Summary]:
    return *_load(path), {"completions": 0, "tokens": 0}


def _sft(arm: Arm, seed: int, folder: Path, path: str, rows: list[dict[str, str]]) -> tuple[Any, Any, Summary]:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = _load(path)
    pairs = [{"prompt": row["prompt"], "completion": row["solution"]} for row in rows]
    trainer = SFTTrainer(
        model,
        SFTConfig(**_arguments(folder, seed)),
        train_dataset=Dataset.from_list(pairs),
        peft_config=_lora(),
        callbacks=[Clock(folder)],
    )
    trainer.train(resume_from_checkpoint=_resumed(folder))
    return trainer.model, tokenizer, {"completions": 0, "tokens": 0}


def _bstar(arm: Arm, seed: int, folder: Path, path: str, rows: list[dict[str, str]]) -> tuple[Any, Any, Summary]:
    from datasets import Dataset
    from problems import is_valid

    from bstar_trl import BalanceCallback, BSTaRConfig, BSTaRTrainer
    from bstar_trl.reports import iteration_rows
    from bstar_trl.rewards import AnswerMatch

    class Watcher(BSTaRTrainer):
        """Also tells how many of the selected solutions are valid: every equation holds and follows."""

        def select_responses(self, rollouts: Any, setting: Any) -> Any:
            selection = super().select_responses(rollouts, setting)
            texts = selection.rollouts.reader.read(selection.rollouts.rows_R)
            valid = [is_valid(self.queries[item.query_id]["prompt"], item.text) for item in texts]
            with (folder / "valid.jsonl").open("a") as file:
                file.write(json.dumps([self.iteration, float(np.mean(valid or [0.0]))]) + "\n")
            return selection

    model, tokenizer = _load(path)
    balance = BalanceCallback.paper(num_queries=5) if arm.kind == "paper" else BalanceCallback(**arm.options)
    trainer = Watcher(
        model=model,
        processing_class=tokenizer,
        reward_funcs=AnswerMatch(workers=1),
        args=BSTaRConfig(
            **_arguments(folder, seed),
            num_generations=GENERATIONS,
            queries_per_iteration=arm.queries,
            samples_per_iteration=STEPS * BATCH,
            balance_target=TARGET,
            iteration_steps=STEPS,
            max_completion_length=LENGTH,
        ),
        train_dataset=Dataset.from_list(rows),
        peft_config=_lora(),
        callbacks=[balance, Clock(folder)],
    )
    trainer.train(resume_from_checkpoint=_resumed(folder))
    history = iteration_rows(trainer.state.log_history)
    valid = dict(json.loads(line) for line in (folder / "valid.jsonl").read_text().splitlines())
    for number, row in enumerate(history):
        row["select/valid"] = valid[number]
    sampled = [row["explore/completions"] + row["balance/extra_completions"] for row in history]
    tokens = trainer.state.num_input_tokens_seen
    return trainer.model, tokenizer, {"completions": sum(sampled), "tokens": tokens, "iterations": history}


def _grpo(arm: Arm, seed: int, folder: Path, path: str, rows: list[dict[str, str]]) -> tuple[Any, Any, Summary]:
    """TRL's own trainer until it has sampled as many tokens as Online RFT with this seed, prompts included in both."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from bstar_trl.rewards import AnswerMatch

    rft = folder_of(folder.parent, "Online RFT", seed) / "summary.json"
    if not rft.exists():
        raise FileNotFoundError(f"{rft}: GRPO gets as many tokens as Online RFT, which must have run first")
    budget = json.loads(rft.read_text())["figures"]["tokens"]

    class Budget(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop |= state.num_input_tokens_seen >= budget

    model, tokenizer = _load(path)
    arguments = _arguments(folder, seed) | {
        "max_steps": 10_000,
        "learning_rate": 1e-5,
        "per_device_train_batch_size": 64,
    }
    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=AnswerMatch(workers=1),
        args=GRPOConfig(
            **arguments, num_generations=GENERATIONS, max_completion_length=LENGTH, lr_scheduler_type="constant"
        ),
        train_dataset=Dataset.from_list(rows),
        peft_config=_lora(),
        callbacks=[Budget(), Clock(folder)],
    )
    trainer.train(resume_from_checkpoint=_resumed(folder))
    steps, tokens = trainer.state.global_step, trainer.state.num_input_tokens_seen
    return trainer.model, tokenizer, {"completions": 64 * steps, "tokens": tokens, "steps": steps}


def judge(model: Any, tokenizer: Any, rows: list[dict[str, str]], seed: int, folder: Path) -> dict[str, list[Any]]:
    """Which responses to these rows are right, and which are valid: one greedy, 8 at T = 1."""
    from datasets import Dataset
    from problems import is_valid

    from bstar_trl import BalanceCallback, BSTaRConfig, BSTaRTrainer, Request
    from bstar_trl.rewards import AnswerMatch

    verifier = AnswerMatch(workers=1)
    settings = _arguments(folder, seed) | {"output_dir": str(folder / "judging")}
    trainer = BSTaRTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=verifier,
        args=BSTaRConfig(**settings, max_completion_length=LENGTH, num_generations=GENERATIONS),
        train_dataset=Dataset.from_list(rows),
        callbacks=[BalanceCallback(1.0)],
    )
    ids, by_id = tuple(range(len(rows))), dict(enumerate(rows))
    found: dict[str, list[Any]] = {
        "greedy": [None] * len(rows),
        "sampled": [[] for _ in rows],
        "valid": [[] for _ in rows],
    }
    with trainer.policy.session():
        requests = [Request(ids, 0.0, 1, seed, by_id), Request(ids, 1.0, GENERATIONS, seed, by_id)]
        completions = list(trainer.generate_responses(requests))
    prompts = [by_id[item.query_id]["prompt"] for item in completions]
    golds = [by_id[item.query_id]["answer"] for item in completions]
    right = verifier(prompts=prompts, completions=[item.text for item in completions], answer=golds)
    for item, prompt, value in zip(completions, prompts, right, strict=True):
        is_right = bool(value) and item.finish_reason == "stop"
        if item.temperature == 0:
            found["greedy"][item.query_id] = is_right
        else:
            found["sampled"][item.query_id].append(is_right)
            found["valid"][item.query_id].append(is_right and is_valid(prompt, item.text))
    return found


# ---------------------------------------------------------------------- what all runs say


def figures_of(judged: Mapping[str, list[Any]]) -> dict[str, np.ndarray]:
    """Figures of each query, (N,): mean of greedy and sampled, each of them, `pass@8`, valid among all samples."""
    greedy, sampled = np.array(judged["greedy"], dtype=float), np.array(judged["sampled"], dtype=float)
    return {
        "mean": (greedy + sampled.mean(axis=1)) / 2,
        "greedy": greedy,
        "pass@1": sampled.mean(axis=1),
        f"pass@{GENERATIONS}": sampled.max(axis=1),
        "valid@1": np.array(judged["valid"], dtype=float).mean(axis=1),
    }


def bootstrap(difference_SN: np.ndarray) -> tuple[float, float, float]:
    """Mean and 95 % interval of paired differences, resampled over seeds and over queries."""
    rng = np.random.default_rng(0)
    num_seeds, num_queries = difference_SN.shape
    means = [
        difference_SN[rng.integers(num_seeds, size=num_seeds)][:, rng.integers(num_queries, size=num_queries)].mean()
        for _ in range(DRAWS)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(difference_SN.mean()), float(low), float(high)


def table(results: Mapping[str, Mapping[int, Summary]]) -> Iterator[str]:
    """What each arm ends at, per test file, as a difference to the start too; and what it cost."""
    tests = list(next(iter(next(iter(results.values())).values()))["judged"])
    for test in tests:
        names = list(figures_of(next(iter(next(iter(results.values())).values()))["judged"][test]))
        yield f"\n**{test}**\n"
        yield f"| arm | seeds | {' | '.join(names)} | mean - start (95 %) | mean - Online RFT (95 %) |"
        yield "| --- |" + " --- |" * (len(names) + 3)
        for name, by_seed in results.items():
            found = {seed: figures_of(summary["judged"][test]) for seed, summary in by_seed.items()}
            cells = [f"{np.mean([figures[item].mean() for figures in found.values()]):.3f}" for item in names]
            rivals = [_against(results, test, "mean", name, rival) for rival in ("start", "Online RFT")]
            yield f"| {name} | {len(by_seed)} | {' | '.join(cells)} | {' | '.join(rivals)} |"
    yield "\n| arm | completions | tokens | minutes | valid share of the selected, by iteration |"
    yield "| --- | --- | --- | --- | --- |"
    for name, by_seed in results.items():
        all_figures = [summary["figures"] for summary in by_seed.values()]
        cost = [
            f"{np.mean([figures[key] for figures in all_figures]):,.0f}"
            for key in ("completions", "tokens", "minutes")
        ]
        histories = [figures["iterations"] for figures in all_figures if "iterations" in figures]
        shares = np.array([[row["select/valid"] for row in rows] for rows in histories])
        valid = [f"{share:.2f}" for share in (shares.mean(axis=0) if histories else [])]
        yield f"| {name} | {' | '.join(cost)} | {' '.join(valid)} |"


def _against(results: Mapping[str, Mapping[int, Summary]], test: str, figure: str, arm: str, rival: str) -> str:
    common = sorted(results[arm].keys() & results.get(rival, {}).keys())
    if arm == rival or not common:
        return ""
    mine, theirs = (
        np.array([figures_of(results[name][seed]["judged"][test])[figure] for seed in common]) for name in (arm, rival)
    )
    mean, low, high = bootstrap(mine - theirs)
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"


def draw(results: Mapping[str, Mapping[int, Summary]], path: Path) -> None:
    """Means over seeds of what the arms logged, by iteration."""
    from bstar_trl.reports import plot_curves
    from bstar_trl.reports.curves import Panel

    panels = [
        Panel("explore/pass@1", "training queries: pass@1", is_share=True),
        Panel(f"explore/pass@{GENERATIONS}", f"training queries: pass@{GENERATIONS}", is_share=True),
        Panel("explore/distinct", "distinct responses", is_share=True),
        Panel("select/valid", "valid share of the selected", is_share=True),
        Panel("balance/temperature", "temperature"),
        Panel("explore/completions", "completions"),
    ]
    runs: dict[str, Sequence[Mapping[str, float]]] = {}
    for name, by_seed in results.items():
        histories = [summary["figures"].get("iterations") for summary in by_seed.values()]
        if all(histories):
            runs[name] = [
                {key: float(np.mean([row[key] for row in rows])) for key in rows[0] if all(key in row for row in rows)}
                for rows in zip(*histories, strict=True)
            ]
    if runs:
        plot_curves(runs, path, panels)


def main() -> int:
    """Make the missing runs and print what all of them say; 1 if a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the start: a folder")
    parser.add_argument("--train", required=True, help="JSON lines with prompt, answer and solution")
    parser.add_argument("--test", required=True, nargs="+", help="the same, to judge on")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--output-dir", type=Path, default=RESULTS)
    parser.add_argument("--run", nargs=2, metavar=("NAME", "SEED"), help="one run in this process")
    options = parser.parse_args()
    if options.run:
        name, seed = options.run[0], int(options.run[1])
        train(name, seed, folder_of(options.output_dir, name, seed), options)
        return 0
    done = {name: _done(options.output_dir, name) for name in ARMS}
    missing = [(name, seed) for seed in range(options.seeds) for name in options.arms if seed not in done[name]]
    command = [sys.executable, __file__, "--model", options.model, "--train", options.train, "--test", *options.test]
    command += ["--output-dir", str(options.output_dir), "--run"]
    complete = finish(missing, lambda name, seed: [*command, name, str(seed)], options.output_dir, jobs=options.jobs)
    results = {name: found for name in ARMS if (found := _done(options.output_dir, name))}
    if results:
        print("\n".join(table(results)))
        draw(results, options.output_dir / "curves.png")
    return 0 if complete else 1


def _done(output_dir: Path, name: str) -> dict[int, Summary]:
    paths = {seed: folder_of(output_dir, name, seed) / "summary.json" for seed in range(100)}
    return {seed: json.loads(path.read_text()) for seed, path in paths.items() if path.exists()}


if __name__ == "__main__":
    sys.exit(main())
