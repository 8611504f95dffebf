"""The command line, `bstar-trl ...`: the only room that prints."""

from __future__ import annotations

import argparse
import math
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from . import __version__
from .errors import BStarError

COLUMNS = (
    ("temperature", "T", "{:.1f}"),
    ("threshold", "tau", "{:.2f}"),
    ("balance_score", "balance", "{:.3f}"),
    ("selected", "selected", "{:d}"),
    ("lucky_share", "lucky", "{:.3f}"),
    ("pass@1", "pass@1", "{:.3f}"),
    ("valid@1", "valid@1", "{:.3f}"),
    ("distinct_valid", "distinct", "{:.2f}"),
    ("valid@1_6", "valid@1_6", "{:.3f}"),
    ("greedy_valid_6", "greedy_6", "{:.3f}"),
    ("seconds", "seconds", "{:.0f}"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    if getattr(parsed, "setting", None) is not None and not parsed.static:
        parser.error("--setting is that of a --static run: add --static, or leave it out")
    try:
        return parsed.run(parsed)
    except BStarError as error:
        print(f"bstar-trl: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bstar-trl", description="B-STaR for TRL.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="train a tiny policy on sums modulo 10, on the CPU, in minutes",
        description="B-STaR on the testbed: a tiny policy learns to add modulo 10 from its own chains of reasoning. "
        "Writes summary.json and curves.png.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument("--output-dir", default="demo-out", metavar="DIR", help="where the results go")
    demo.add_argument("--iterations", type=_positive, default=8, metavar="N", help="iterations to train")
    demo.add_argument("--seed", type=_seed, default=0, help="seed of data, sampling and training")
    demo.add_argument(
        "--static",
        action="store_true",
        help="fixed temperature 1 and threshold 0, with as many completions in all as the balanced run",
    )
    demo.add_argument(
        "--reward",
        choices=("checker", "answer"),
        default="checker",
        help="the answer and a noisy step checker, or the answer alone",
    )
    demo.add_argument(
        "--setting",
        type=_setting,
        metavar="T,TAU",
        help="temperature and threshold of a --static run instead of 1.0,0.0",
    )
    demo.set_defaults(run=_demo)
    check = commands.add_parser(
        "sandbox-check",
        help="what this machine gives to the sandbox of UnitTests",
        description="Tries every layer of the sandbox that runs programs for UnitTests, and says what holds and what "
        "this machine lacks. Exit status 1 where a layer is missing.",
    )
    check.set_defaults(run=_sandbox_check)
    _add_train_prm(commands)
    return parser


def _add_train_prm(commands: Any) -> None:
    train = commands.add_parser(
        "train-prm",
        help="train a process reward model on solutions with labelled steps",
        description="Trains a token classifier that says after each step how likely the solution is still right. "
        "Rows are TRL's stepwise supervision (prompt, completions, labels), with hard or soft labels, or PRM800K's "
        "ratings. Writes the model and metrics.json.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    need: dict[str, Any] = {"required": True, "default": argparse.SUPPRESS}
    train.add_argument("--model", metavar="M", help="a causal LM or token classifier, folder or Hub id", **need)
    rows = "files (json, jsonl, parquet), folders of them, or Hub datasets"
    train.add_argument("--dataset", nargs="+", metavar="D", help=f"rows to train on: {rows}", **need)
    train.add_argument("--eval-dataset", nargs="+", metavar="D", help="rows to measure on, likewise")
    train.add_argument("--output-dir", metavar="DIR", help="where the model goes", **need)
    train.add_argument("--epochs", type=_above_zero, default=3.0, metavar="N", help="passes over the rows")
    train.add_argument(
        "--learning-rate", type=_above_zero, metavar="LR", help="at its highest; None: 1e-5, or 1e-4 for a LoRA"
    )
    train.add_argument("--batch-size", type=_positive, default=8, metavar="N", help="rows on a device at a time")
    train.add_argument("--accumulate", type=_positive, default=1, metavar="N", help="batches to an optimizer step")
    train.add_argument("--max-length", type=_positive, metavar="N", help="tokens of a row; None: the model's context")
    train.add_argument(
        "--separator", type=_escaped, default=r"\n", metavar="TEXT", help="what stands behind each step"
    )
    train.add_argument("--neutral-label", type=_share, default=1.0, metavar="P", help="label of PRM800K's rating 0")
    train.add_argument("--lora-r", type=_positive, metavar="R", help="train a LoRA of this rank, and merge it")
    train.add_argument("--seed", type=_seed, default=0, help="seed of the new head and the order of rows")
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the output folder")
    train.add_argument("--report-to", default="none", metavar="NAME", help="wandb, trackio, tensorboard")
    train.set_defaults(run=_train_prm)


def _positive(text: str) -> int:
    return _whole_number(text, 1)


def _seed(text: str) -> int:
    return _whole_number(text, 0)


def _whole_number(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, got {text}")
    return int(text)


def _above_zero(text: str) -> float:
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be greater than 0, got {text}")
    return value


def _share(text: str) -> float:
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be in 0..1, got {text}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None


def _escaped(text: str) -> str:
    return text.replace("\\n", "\n").replace("\\t", "\t")


def _setting(text: str) -> tuple[float, float]:
    left, _, right = text.partition(",")
    try:
        temperature, threshold = float(left), float(right)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be two numbers like 1.0,0.0, got {text!r}") from None
    if not 0 < temperature < math.inf or not math.isfinite(threshold):
        raise argparse.ArgumentTypeError(f"temperature must be greater than 0, and both finite, got {text!r}")
    return temperature, threshold


def _demo(parsed: argparse.Namespace) -> int:
    from pathlib import Path

    # The libraries' notes to their own callers would tear the table.
    warnings.filterwarnings("ignore", category=FutureWarning)
    import torch
    from tqdm.auto import tqdm

    # So small a model gains nothing from a second thread, and every machine gives the same figures with one.
    torch.set_num_threads(1)

    from .report import plot_curves
    from .testbed.demo import run_demo

    rows = 0

    def show(row: dict[str, Any]) -> None:
        nonlocal rows
        cells = [template.format(row[name]) if name in row else "" for name, _, template in COLUMNS]
        tqdm.write(_line("start" if rows == 0 else str(rows), cells))
        rows += 1

    method = "static" if parsed.static else "balanced"
    print(f"B-STaR on sums modulo 10: {method}, reward {parsed.reward}, seed {parsed.seed}")
    print(_line("iteration", [title for _, title, _ in COLUMNS]))
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
    plot_curves({method: summary}, picture)
    initial, final = summary["initial"]["valid@1"], summary["final"]["valid@1"]
    print(f"valid@1 went from {initial:.3f} to {final:.3f}.")
    print(f"Figures: {Path(parsed.output_dir) / 'summary.json'}\nCurves: {picture}")
    return 0


def _sandbox_check(parsed: argparse.Namespace) -> int:
    from .sandbox.probe import missing_layers, proofs

    holds = True
    for proof in proofs():
        holds &= proof.holds
        print(f"{'holds' if proof.holds else 'FAILS':<7}{proof.layer:<22}{proof.detail}")
    missing = missing_layers()
    for item in missing:
        print(f"missing: {item}")
    if not missing and holds:
        print("This machine gives every layer.")
    return int(bool(missing) or not holds)


def _train_prm(parsed: argparse.Namespace) -> int:
    from pathlib import Path

    warnings.filterwarnings("ignore", category=FutureWarning)
    from peft import LoraConfig

    from .process_rewards.data import load_rows
    from .process_rewards.train import prm_arguments, train_prm

    train = load_rows(parsed.dataset, neutral_label=parsed.neutral_label)
    evaluation = load_rows(parsed.eval_dataset, neutral_label=parsed.neutral_label) if parsed.eval_dataset else None
    lora = parsed.lora_r and LoraConfig(r=parsed.lora_r, lora_alpha=2 * parsed.lora_r, target_modules="all-linear")
    figures = train_prm(
        parsed.model,
        train,
        evaluation,
        args=prm_arguments(
            parsed.output_dir,
            num_train_epochs=parsed.epochs,
            learning_rate=parsed.learning_rate or (1e-4 if lora else 1e-5),
            per_device_train_batch_size=parsed.batch_size,
            per_device_eval_batch_size=parsed.batch_size,
            gradient_accumulation_steps=parsed.accumulate,
            eval_strategy="epoch" if evaluation else "no",
            seed=parsed.seed,
            report_to=parsed.report_to,
        ),
        separator=parsed.separator,
        max_length=parsed.max_length,
        peft_config=lora,
        resume=parsed.resume,
        on_note=lambda note: print(f"Note: {note}."),
    )
    for name, value in figures.items():
        if name.startswith(("eval_", "train_")) and not name.endswith(("runtime", "per_second")):
            print(f"{name.removeprefix('eval_'):<24}{value:>10.4g}")
    print(f"Model: {parsed.output_dir}\nFigures: {Path(parsed.output_dir) / 'metrics.json'}")
    return 0


def _line(first: str, cells: Sequence[str]) -> str:
    return f"{first:>9}" + "".join(f"{cell:>10}" for cell in cells)


if __name__ == "__main__":
    sys.exit(main())
