"""A real language model on word problems:

    python examples/word_problems/get_model.py --output_dir smollm2
    python benchmarks/real.py --model smollm2 --train words_train.jsonl --test words_test.jsonl svamp_test.jsonl

Arms x seeds, every run a process of its own that goes on at its last iteration when it is started again: five
iterations of 200 queries x 8 responses; an arm with a probe pays for it out of that. GRPO samples as many tokens as
Online RFT with its seed. All start at the adapter in benchmarks/start (its README says how it was made), so that runs
of different days belong together. The first 200 rows of each `--test` file are judged greedily and with 8 samples at
T = 1. Then prints tables with 95 % intervals (bootstrap over seeds and queries, paired) and writes curves.png. Results
of another model, other data or other sizes count as missing, and are made again.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import os
import shutil
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

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "word_problems"))
from precision import has_fast_bf16
from problems import as_query, column, is_valid

RESULTS = Path(__file__).parent / "results" / "real"
START = Path(__file__).parent / "start"  # an adapter
ITERATIONS, STEPS, BATCH = 5, 10, 15
QUERIES, GENERATIONS = 200, 8
TARGET = 1.0  # n*: right solutions of a query hardly differ in their text, so two are seldom found
LENGTH = 64  # tokens of a response at most; the solutions have about 25
WATCHED = 50  # rows of the first test file that are evaluated after every iteration, for the curves
LEARNING_RATE = 1e-4
DRAWS = 2000  # of the bootstrap
Rows = list[dict[str, str]]
Summary = dict[str, Any]
Trained = tuple[Any, Any, Summary]  # model, tokenizer, figures


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
    # 5 % of the queries at each of eight temperatures: 150 x 8, and 7 x 8 x 7 that are thrown away.
    "paper": Arm(kind="paper", queries=150),
    "default": Arm(),
    **{f"GRPO, {rate:g}": Arm({"learning_rate": rate}, kind="grpo") for rate in (1e-5, 5e-5, 2e-4)},
}


# ---------------------------------------------------------------------- one run


def train(name: str, seed: int, folder: Path, options: argparse.Namespace) -> None:
    """One run, in this process; goes on at its last checkpoint, if that is of the same run."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
    warnings.filterwarnings("ignore")
    import torch

    what, path = described(name, options), folder / "what.json"
    if not path.exists() or json.loads(path.read_text()) != what:
        for old in ("run", "judging"):
            shutil.rmtree(folder / old, ignore_errors=True)
        for old in ("valid.jsonl", "seconds.json"):
            (folder / old).unlink(missing_ok=True)
        path.write_text(json.dumps(what) + "\n")
    arm, rows = ARMS[name], read_rows(options.train)
    tests = {Path(path).stem: read_rows(path)[: options.rows] for path in options.test}
    trained = {"none": _untrained, "sft": _sft, "grpo": _grpo}.get(arm.kind, _bstar)
    model, tokenizer, figures = trained(arm, seed, folder, options, rows)
    figures["minutes"] = sum(Clock(folder).parts().values()) / 60
    torch.manual_seed(seed)
    judged = {name: judge(model, tokenizer, part, seed, folder) for name, part in tests.items()}
    (folder / "summary.json").write_text(json.dumps({"what": what, "figures": figures, "judged": judged}) + "\n")


def described(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """What a result is the result of: the arm, the sizes, and the contents of model and data."""
    weights = [*sorted(Path(options.model).glob("*.safetensors"))]
    weights += [] if options.adapter is None else [options.adapter / "adapter_model.safetensors"]
    files = [*weights, Path(options.train), *map(Path, options.test)]
    return {
        "arm": dataclasses.asdict(ARMS[name]),
        "sizes": [ITERATIONS, STEPS, BATCH, QUERIES, GENERATIONS, LENGTH, TARGET, LEARNING_RATE, options.rows],
        "files": [_fingerprint(path, path.stat().st_mtime_ns) for path in files],
    }


@functools.cache
def _fingerprint(path: Path, written_at: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


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

    on_train_end = on_save


def read_rows(path: str) -> list[dict[str, str]]:
    """Rows with `prompt`, `answer` and `solution`, the prompt as the model is asked it."""
    rows = map(json.loads, Path(path).read_text().splitlines())
    return [
        {"prompt": as_query(row), "answer": column(row, "answer"), "solution": column(row, "solution")} for row in rows
    ]


def _load(options: argparse.Namespace) -> tuple[Any, Any]:
    """The start: the model with the adapter in it, and the tokenizer."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    if options.adapter is not None:
        model = PeftModel.from_pretrained(model, options.adapter).merge_and_unload().requires_grad_(True)
    return model, tokenizer


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
        "bf16": has_fast_bf16(),
        "use_cpu": not torch.cuda.is_available(),
    }


def _resumed(folder: Path) -> bool:
    return any((folder / "run").glob("checkpoint-*/trainer_state.json"))


def _untrained(arm: Arm, seed: int, folder: Path, options: argparse.Namespace, rows: Rows) -> Trained:
    return *_load(options), {"completions": 0, "tokens": 0}


def _sft(arm: Arm, seed: int, folder: Path, options: argparse.Namespace, rows: Rows) -> Trained:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = _load(options)
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


def _bstar(arm: Arm, seed: int, folder: Path, options: argparse.Namespace, rows: Rows) -> Trained:
    from datasets import Dataset

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

    model, tokenizer = _load(options)
    balance = BalanceCallback.paper(num_queries=7) if arm.kind == "paper" else BalanceCallback(**arm.options)
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
            num_generations_eval=2,
            eval_strategy="steps",
            eval_steps=STEPS,
            eval_on_start=not _resumed(folder),
        ),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(read_rows(options.test[0])[:WATCHED]),
        peft_config=_lora(),
        callbacks=[balance, Clock(folder)],
    )
    trainer.train(resume_from_checkpoint=_resumed(folder))
    history = iteration_rows(trainer.state.log_history)
    valid = dict(json.loads(line) for line in (folder / "valid.jsonl").read_text().splitlines())
    for row in history[1:]:
        row["select/valid"] = valid[row["iteration"] - 1]
    sampled = [row["explore/completions"] + row["balance/extra_completions"] for row in history[1:]]
    tokens = trainer.state.num_input_tokens_seen
    return trainer.model, tokenizer, {"completions": sum(sampled), "tokens": tokens, "iterations": history}


def _grpo(arm: Arm, seed: int, folder: Path, options: argparse.Namespace, rows: Rows) -> Trained:
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

    model, tokenizer = _load(options)
    arguments = _arguments(folder, seed) | arm.options | {"max_steps": 10_000, "per_device_train_batch_size": 64}
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


Results = dict[str, dict[int, Summary]]  # by arm and seed


def table(results: Results) -> Iterator[str]:
    """What each arm ends at, per test file, as paired differences too; and what it cost."""
    some = next(iter(next(iter(results.values())).values()))
    for test in some["judged"]:
        names = list(figures_of(some["judged"][test]))
        pass_at_k = f"pass@{GENERATIONS}"
        pairs = (("mean", "start"), (pass_at_k, "start"), ("mean", "Online RFT"))
        yield f"\n**{test}**\n"
        titles = [*names, *(f"{figure} - {rival} (95 %)" for figure, rival in pairs), "seeds for +-0.01"]
        yield f"| arm | seeds | {' | '.join(titles)} |"
        yield "| --- |" + " --- |" * (len(titles) + 1)
        for name, by_seed in results.items():
            found = [figures_of(summary["judged"][test]) for summary in by_seed.values()]
            cells = [f"{np.mean([figures[item].mean() for figures in found]):.3f}" for item in names]
            for figure, rival in pairs:
                difference_SN = differences(results, test, figure, name, rival)
                cells.append(interval(difference_SN) if len(difference_SN) else "")
            cells.append(seeds_needed(differences(results, test, "mean", name, "Online RFT")))
            yield f"| {name} | {len(by_seed)} | {' | '.join(cells)} |"
    yield "\n| arm | completions | tokens | minutes | valid share of the selected, by iteration |"
    yield "| --- | --- | --- | --- | --- |"
    for name, by_seed in results.items():
        all_figures = [summary["figures"] for summary in by_seed.values()]
        cost = [f"{np.mean([row[key] for row in all_figures]):,.0f}" for key in ("completions", "tokens", "minutes")]
        histories = [figures["iterations"][1:] for figures in all_figures if "iterations" in figures]
        shares = np.array([[row["select/valid"] for row in rows] for rows in histories])
        valid = [f"{share:.2f}" for share in (shares.mean(axis=0) if histories else [])]
        yield f"| {name} | {' | '.join(cost)} | {' '.join(valid)} |"


def differences(results: Results, test: str, figure: str, arm: str, rival: str) -> np.ndarray:
    """Paired by seed and query, (S, N); of an arm with itself, or without common seeds, nothing."""
    common = [] if arm == rival else sorted(results[arm].keys() & results.get(rival, {}).keys())
    mine, theirs = (
        np.array([figures_of(results[name][seed]["judged"][test])[figure] for seed in common])
        for name in (arm, rival if common else arm)
    )
    return mine - theirs


def interval(difference_SN: np.ndarray) -> str:
    """Mean and bounds in words."""
    mean, low, high = bootstrap(difference_SN)
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"


def seeds_needed(difference_SN: np.ndarray) -> str:
    """How many seeds it takes for a 95 % interval of one point to either side, on these queries."""
    if len(difference_SN) < 2:
        return ""
    return f"{(1.96 * difference_SN.mean(axis=1).std(ddof=1) / 0.01) ** 2:.0f}"


def draw(results: Results, path: Path) -> None:
    """Means over seeds of what the arms logged, by iteration."""
    from bstar_trl.reports import plot_curves
    from bstar_trl.reports.curves import Panel

    panels = [
        Panel("eval_greedy_pass@1", f"greedy, {WATCHED} held-out queries", is_share=True),
        Panel("eval_pass@1", f"sampled at T = 1, {WATCHED} held-out queries", is_share=True),
        Panel("explore/distinct", "distinct, at the arm's own temperature", is_share=True),
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
    parser.add_argument("--model", required=True, help="a folder with the model")
    parser.add_argument("--adapter", type=_adapter, default=START, help="the start's adapter in it, or 'none'")
    parser.add_argument("--train", required=True, help="JSON lines with prompt, answer and solution")
    parser.add_argument("--test", required=True, nargs="+", help="the same, to judge on")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=200, help="rows of each test file that are judged")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--output-dir", type=Path, default=RESULTS)
    parser.add_argument("--run", nargs=2, metavar=("NAME", "SEED"), help="one run in this process")
    options = parser.parse_args()
    if options.run:
        name, seed = options.run[0], int(options.run[1])
        train(name, seed, folder_of(options.output_dir, name, seed), options)
        return 0
    for path in (options.train, *options.test):
        if not Path(path).is_file():
            parser.error(f"there is no file {path}")
        read_rows(path)  # a missing column is found now
    if not (Path(options.model) / "config.json").is_file():
        parser.error(f"{options.model} holds no model: examples/word_problems/get_model.py gets one")
    if options.adapter is not None and not (options.adapter / "adapter_model.safetensors").is_file():
        parser.error(f"{options.adapter} holds no adapter")
    command = [sys.executable, __file__, "--model", options.model, "--train", options.train, "--test", *options.test]
    command += ["--adapter", str(options.adapter or "none"), "--rows", str(options.rows)]
    command += ["--output-dir", str(options.output_dir), "--run"]
    complete = True
    for part in (lambda name: ARMS[name].kind != "grpo", lambda name: ARMS[name].kind == "grpo"):  # needs the others
        names = [name for name in options.arms if part(name)]
        runs = [(name, seed) for seed in range(options.seeds) for name in names if not _read(options, name, seed)]
        complete &= finish(runs, lambda name, seed: [*command, name, str(seed)], options.output_dir, jobs=options.jobs)
    found = {
        name: {seed: summary for seed in range(options.seeds) if (summary := _read(options, name, seed))}
        for name in options.arms
    }
    results: Results = {name: by_seed for name, by_seed in found.items() if by_seed}
    if results:
        print("\n".join(table(results)))
        draw(results, options.output_dir / "curves.png")
    return 0 if complete else 1


def _adapter(path: str) -> Path | None:
    return None if path == "none" else Path(path)


def _read(options: argparse.Namespace, name: str, seed: int) -> Summary | None:
    """A finished run's summary; one of other sizes, data or another model counts as none."""
    path = folder_of(options.output_dir, name, seed) / "summary.json"
    summary = json.loads(path.read_text()) if path.exists() else {}
    return summary if summary.get("what") == described(name, options) else None


if __name__ == "__main__":
    sys.exit(main())
