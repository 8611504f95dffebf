"""What a model card says of a run beyond TRL's draft: method, data, rewards, settings, figures, versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..callback import BalanceCallback
from ..config import BSTaRConfig, IterationPlan
from ..reports.columns import Column, evaluation_columns, iteration_columns
from ..reports.history import Row, iteration_rows
from ..rollouts.scoring import Scorer

OWN_PACKAGES = ("bstar-trl", "peft")  # TRL's draft names the others


@dataclass(frozen=True)
class Run:
    """What a card tells of.

    Args:
        folder (`str`): name of the folder that holds the model.
        base (`str`): name of the model that the run began with.
        adapters (`Mapping[str, PeftConfig]`): what was trained beside frozen weights; empty: all weights.
        data (`str`): what it was trained on.
        in_messages (`bool`): whether the prompts are conversations.
        args, plan, balance, scorer: the trainer's.
        log_history (`Sequence[dict]`): `trainer.state.log_history`.
    """

    folder: str
    base: str
    adapters: Mapping[str, Any]
    data: str
    in_messages: bool
    args: BSTaRConfig
    plan: IterationPlan
    balance: BalanceCallback
    scorer: Scorer
    log_history: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, trainer: Any, dataset_name: str | None) -> Run:
        """A `BSTaRTrainer`'s.

        Args:
            trainer (`BSTaRTrainer`): as it is after, or in the middle of, the training.
            dataset_name (`str`, *optional*): of its training dataset.
        """
        base, dataset = str(trainer.model.config._name_or_path), trainer.train_dataset
        rows = f"{len(dataset):,} rows" if isinstance(dataset, Dataset) else "a stream of rows"
        return cls(
            folder=Path(trainer.args.output_dir).name,
            base=Path(base).name if Path(base).is_dir() else base or "a model made by the script",
            adapters=getattr(trainer.model, "peft_config", {}),
            data=f"{dataset_name}, {rows}" if dataset_name else rows,
            in_messages=trainer.prompts_are_messages,
            args=trainer.args,
            plan=trainer.plan,
            balance=trainer.balance,
            scorer=trainer.scorer,
            log_history=trainer.state.log_history,
        )


def complete_card(path: Path, run: Run) -> None:
    """Add to TRL's draft in a file what the run was and what it found.

    TRL takes a base model that lies in a folder for none and writes "None" for it, and for a model without a name on
    the Hub; both are put right here.
    """
    draft, described = path.read_text(encoding="utf-8"), describe_run(run)
    versions = "".join(f"- {name}: {version(name)}\n" for name in OWN_PACKAGES)
    changes = {
        "[None](https://huggingface.co/None)": run.base,
        'model="None"': f'model="{run.folder}"',
        "### Framework versions\n\n": f"{described}\n### Framework versions\n\n{versions}",
    }
    if not run.in_messages:  # TRL's quick start asks in a conversation
        changes['[{"role": "user", "content": question}]'] = "question"
    for old, new in changes.items():
        draft = draft.replace(old, new)
    path.write_text(draft if described in draft else f"{draft}\n{described}", encoding="utf-8")


def describe_run(run: Run) -> str:
    """What it was and what it found, as sections in Markdown."""
    rows = iteration_rows(run.log_history)
    parts = [
        "### The run",
        "\n".join(f"- **{name}**: {text}" for name, text in facts_of(run).items()),
        "### Iterations",
        _figures("iteration", rows, iteration_columns(rows)),
    ]
    if columns := evaluation_columns(rows):
        args = run.args
        sampled = f"Sampled at temperature {args.temperature:g}, {args.num_eval_generations} responses a query."
        parts += ["### Evaluation", _figures("after iteration", rows, columns), sampled]
    return "\n\n".join(parts) + "\n"


def facts_of(run: Run) -> dict[str, str]:
    """What the run is, by title, in Markdown."""
    args, plan, scorer = run.args, run.plan, run.scorer
    judges = {scorer.names[index] for index in scorer.verifiers.indices}
    rewards = ", ".join(
        f"{name} (weight {weight:g}{', the verifier' if name in judges else ''})"
        for name, weight in zip(scorer.names, scorer.weights_F.tolist(), strict=True)
    )
    return {
        "Method": "[B-STaR](https://huggingface.co/papers/2412.17256): rejection-sampling fine-tuning on the model's "
        "own responses, with a balance between exploration and exploitation",
        "Base": run.base,
        "Trained": ", ".join(map(_adapter, run.adapters.values())) or "all weights",
        "Data": run.data,
        "Prompts": "conversations, by the tokenizer's chat template" if run.in_messages else "plain text",
        "Rewards": rewards,
        "Temperature": _candidates(run.balance.temperatures),
        "Threshold": _candidates(run.balance.thresholds),
        "Iteration": f"{plan.num_queries:,} queries, at most {args.num_generations} responses to each, "
        f"{plan.num_samples:,} selected responses wanted ({plan.target:g} per query), {plan.num_steps:,} optimizer "
        f"steps of {plan.batch_size:,}",
        "Optimizer": f"learning rate {args.learning_rate:g} ({_plain(args.lr_scheduler_type)}), "
        f"{_plain(args.optim)}, inheritance {args.inheritance}, seed {args.seed}",
    }


def _adapter(config: Any) -> str:
    rank = f" of rank {config.r}" if getattr(config, "r", None) else ""
    return f"an adapter ({_plain(config.peft_type)}{rank})"


def _candidates(values: Sequence[float] | None) -> str:
    if values is None:
        return "chosen in every iteration, among all that make a difference"
    chooses = "chosen in every iteration among" if len(values) > 1 else "always"
    return f"{chooses} {', '.join(f'{value:g}' for value in values)}"


def _plain(value: Any) -> str:
    return str(getattr(value, "value", value))


def _figures(first: str, rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """A table of the rows that have any of the columns."""
    lines = [
        ["start" if row["iteration"] == 0 else f"{row['iteration']:.0f}", *(column.cell(row) for column in columns)]
        for row in rows
        if any(column.name in row for column in columns)
    ]
    return _table([first, *(column.title for column in columns)], lines)


def _table(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    if not lines:
        return "None was logged."
    rows = (titles, ["---"] * len(titles), *lines)
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |" for cells in rows)
