"""What a model card says of a run beyond TRL's draft: method, data, rewards, settings, figures, versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from ..callback import BalanceCallback
from ..config import BSTaRConfig, IterationPlan
from ..reports.columns import Column, evaluation_columns, iteration_columns
from ..reports.history import Row, iteration_rows
from ..rollouts.scoring import Scorer

OWN_PACKAGES = ("bstar-trl", "peft")  # TRL's draft names the others


def complete_card(draft: str, run: str, base: str) -> str:
    """TRL's draft with a description of the run.

    TRL takes a base model that lies in a folder for none and writes "None" for it, and for a model without a name on
    the Hub; both are put right here.

    Args:
        draft (`str`): the card as TRL wrote it.
        run (`str`): as of [`describe_run`].
        base (`str`): name of the model that the run began with.
    """
    versions = "".join(f"- {name}: {version(name)}\n" for name in OWN_PACKAGES)
    changes = {
        "[None](https://huggingface.co/None)": base,
        'model="None"': 'model="path/to/this/folder"',
        "### Framework versions\n\n": f"{run}\n### Framework versions\n\n{versions}",
    }
    for old, new in changes.items():
        draft = draft.replace(old, new)
    return draft if run in draft else f"{draft}\n{run}"


def describe_run(
    *,
    base: str,
    data: str,
    args: BSTaRConfig,
    plan: IterationPlan,
    balance: BalanceCallback,
    scorer: Scorer,
    log_history: Sequence[Mapping[str, Any]],
) -> str:
    """What it was and what it found, as sections in Markdown.

    Args:
        base (`str`): name of the model that the run began with.
        data (`str`): what it was trained on.
        args, plan, balance, scorer: the trainer's.
        log_history (`Sequence[dict]`): `trainer.state.log_history`.
    """
    rows = iteration_rows(log_history)
    parts = [
        "### The run",
        _facts(base, data, args, plan, balance, scorer),
        "### Iterations",
        _figures("iteration", rows, iteration_columns(rows)),
    ]
    if columns := evaluation_columns(rows):
        sampled = f"Sampled at temperature {args.temperature:g}, {args.num_eval_generations} responses a query."
        parts += ["### Evaluation", _figures("after iteration", rows, columns), sampled]
    return "\n\n".join(parts) + "\n"


def _facts(
    base: str, data: str, args: BSTaRConfig, plan: IterationPlan, balance: BalanceCallback, scorer: Scorer
) -> str:
    judges = {scorer.names[index] for index in scorer.verifiers.indices}
    rewards = ", ".join(
        f"{name} (weight {weight:g}{', the verifier' if name in judges else ''})"
        for name, weight in zip(scorer.names, scorer.weights_F.tolist(), strict=True)
    )
    facts = {
        "Method": "[B-STaR](https://huggingface.co/papers/2412.17256): rejection-sampling fine-tuning on the model's "
        "own responses, with a balance between exploration and exploitation",
        "Base": base,
        "Data": data,
        "Rewards": rewards,
        "Temperature": _candidates(balance.temperatures),
        "Threshold": _candidates(balance.thresholds),
        "Iteration": f"{plan.num_queries:,} queries, at most {args.num_generations} responses to each, "
        f"{plan.num_samples:,} selected responses wanted ({plan.target:g} per query), {plan.num_steps:,} optimizer "
        f"steps of {plan.batch_size:,}",
        "Optimizer": f"learning rate {args.learning_rate:g} ({_plain(args.lr_scheduler_type)}), "
        f"{_plain(args.optim)}, inheritance {args.inheritance}, seed {args.seed}",
    }
    return "\n".join(f"- **{name}**: {text}" for name, text in facts.items())


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
    rule = ["---"] * len(titles)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (titles, rule, *lines))
