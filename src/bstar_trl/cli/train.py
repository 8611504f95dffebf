"""`bstar-trl train`."""

from __future__ import annotations

import dataclasses
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from ..options import BalanceOptions, DataOptions, IterationOptions, RewardOptions

NAME = "train"
SUMMARY = "train a model on a file of questions and answers"
USAGE = "bstar-trl train [CONFIG.yaml] [--key value ...]"
ABOUT = (
    "Trains a model by B-STaR on the rows of a file or of the Hub, and writes the adapter, its model card and "
    "checkpoints into a folder. Started again, it goes on at the last checkpoint. CONFIG.yaml holds lines like "
    "'key: value'; options that are typed override it."
)
EXAMPLE = """\
  bstar-trl train --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dataset_name questions.jsonl --output_dir out
  bstar-trl report out"""
SECTIONS = (
    ("data", DataOptions),
    ("rewards", RewardOptions),
    ("an iteration", IterationOptions),
    ("temperature and threshold", BalanceOptions),
)
# Options of TRL and transformers that most runs set, with the defaults they have here.
USUAL = (
    ("model_name_or_path", "folder or id on the Hub (needed)"),
    ("output_dir", "where everything goes; default: a folder named after the model"),
    ("num_generations", "K, responses per query (default: 16)"),
    ("max_completion_length", "tokens of a response at most"),
    ("max_steps", "optimizer steps of the run; without it num_train_epochs (default: 3)"),
    ("per_device_train_batch_size", "responses per step and device"),
    ("learning_rate", "default: 1e-4 for adapters, 2e-5 for all weights"),
    ("use_peft", "train a LoRA (default: true); lora_r, lora_alpha, load_in_4bit"),
    ("use_vllm", "sample with vLLM (default: false)"),
    ("eval_strategy", "no, steps or epoch (default: no)"),
    ("report_to", "wandb, tensorboard, trackio, none"),
)


def run(words: Sequence[str]) -> int:
    """Train; wrong words raise `ConfigurationError`."""
    if "-h" in words or "--help" in words:
        print(options_text(USAGE, ABOUT, EXAMPLE, shutil.get_terminal_size().columns))
        return 0
    import warnings

    warnings.filterwarnings("ignore", category=FutureWarning)
    if "--help_all" in words:
        from ..launch.parsing import Parser

        Parser().print_help()
        return 0
    from ..launch.models import check_start
    from ..launch.parsing import parse
    from ..launch.train import build_trainer, run_training

    options = parse(words)
    check_start(options.model)
    trainer = build_trainer(options)
    run_training(trainer, options.data.dataset_name)
    if trainer.is_world_process_zero():
        print(f"Model and card: {trainer.args.output_dir}")
    return 0


def options_text(usage: str, about: str, example: str, width: int) -> str:
    """What `--help` prints of a command with a configuration's options, in lines of at most `width` columns."""
    width = max(60, min(width, 100))
    lines = [f"usage: {usage}", "", *textwrap.wrap(about, width), "", "example:", example]
    for title, group in SECTIONS:
        lines += ["", f"{title}:"]
        for item in dataclasses.fields(group):
            lines += _entry(item.name, f"{item.metadata['help'].rstrip('.')}{_default(item)}", width)
    lines += ["", "options of TRL, among them (all: --help_all):"]
    for name, text in USUAL:
        lines += _entry(name, text, width)
    return "\n".join(lines)


def _default(item: dataclasses.Field[Any]) -> str:
    return "" if item.default is None or "default" in item.metadata["help"] else f" (default: {_plain(item.default)})"


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _entry(name: str, text: str, width: int) -> Iterator[str]:
    indent = 2 + 32
    first, *others = textwrap.wrap(text, width - indent)
    option = f"  --{name}"
    if len(option) >= indent:
        yield option
        option = ""
    yield f"{option:<{indent}}{first}"
    for line in others:
        yield " " * indent + line
