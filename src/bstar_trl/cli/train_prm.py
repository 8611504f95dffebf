"""`bstar-trl train-prm`."""

from __future__ import annotations

import argparse
import sys
import warnings
from typing import Any

from .values import above_zero, positive, seed, share, unescaped


def add_to(commands: Any) -> None:
    """Add the command."""
    train = commands.add_parser(
        "train-prm",
        help="train a process reward model on solutions with labelled steps",
        description="Trains a token classifier that predicts after each step the probability that the step is right. "
        "Rows have TRL's format of stepwise supervision (prompt, completions, labels), with hard or soft labels or "
        "PRM800K's ratings. Writes the model and metrics.json.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    need: dict[str, Any] = {"required": True, "default": argparse.SUPPRESS}
    train.add_argument("--model", metavar="M", help="a causal LM or token classifier, folder or Hub id", **need)
    rows = "files (json, jsonl, parquet), folders of them, or Hub datasets"
    train.add_argument("--dataset", nargs="+", metavar="D", help=f"rows to train on: {rows}", **need)
    train.add_argument("--eval_dataset", nargs="+", metavar="D", help=f"rows to measure on: {rows}")
    train.add_argument("--output_dir", metavar="DIR", help="where the model goes", **need)
    train.add_argument("--epochs", type=above_zero, default=3.0, metavar="N", help="passes over the rows")
    train.add_argument(
        "--learning_rate", type=above_zero, metavar="LR", help="peak value; None: 1e-5, or 1e-4 for a LoRA"
    )
    train.add_argument("--batch_size", type=positive, default=8, metavar="N", help="rows per batch and device")
    train.add_argument("--accumulate", type=positive, default=1, metavar="N", help="batches per optimizer step")
    train.add_argument(
        "--max_length", type=positive, metavar="N", help="largest row, in tokens; None: the model's context"
    )
    train.add_argument("--separator", type=unescaped, default=r"\n", metavar="TEXT", help="the text after each step")
    train.add_argument("--neutral_label", type=share, default=1.0, metavar="P", help="label of PRM800K's rating 0")
    train.add_argument("--lora_r", type=positive, metavar="R", help="train a LoRA of this rank, and merge it")
    train.add_argument("--seed", type=seed, default=0, help="seed of the new head and the order of rows")
    train.add_argument("--resume", action="store_true", help="continue from the last checkpoint in the output folder")
    train.add_argument("--report_to", default="none", metavar="NAME", help="wandb, trackio, tensorboard")
    train.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    from pathlib import Path

    warnings.filterwarnings("ignore", category=FutureWarning)
    from peft import LoraConfig

    from ..prm_training.data import annotated_separator, load_rows
    from ..prm_training.train import prm_arguments, train_prm

    for source in [*parsed.dataset, *(parsed.eval_dataset or [])]:
        separator = annotated_separator(source)
        if separator not in (None, parsed.separator):
            print(
                f"Warning: {separator!r} separates the annotated steps of {source}, but the model is trained with "
                f"{parsed.separator!r} after each step. It would score responses with {separator!r} as one step "
                "(--separator).",
                file=sys.stderr,
            )
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
