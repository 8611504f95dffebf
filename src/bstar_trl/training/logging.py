"""The figures of an iteration, and the forms in which they are logged."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm
from transformers.utils import is_rich_available

from .. import metrics
from ..config import BSTaRConfig
from ..records import Grids, Request, Rollouts, Selection, Setting
from ..rollouts.round import Sampler
from ..rollouts.scoring import Scorer

EQUATION_QUERIES = 100  # distinct equations are measured on this many queries, because reading texts is slow
PASS_S = 4


def iteration_metrics(rollouts: Rollouts, selection: Selection, sampler: Sampler) -> dict[str, float]:
    """Figures of one iteration's exploration and selection, under the names of the logs.

    `explore/*` and `select/*` are this package's; `reward`, `rewards/<name>/*` and `completions/*` are TRL's names.
    Only the exploration counts, not the probe's samples at other temperatures. A collective.
    """
    grids = rollouts.grids
    # Figures of K responses need K of every query, but a user's `explore` may sample unevenly.
    is_even = bool((grids.index_NK >= 0).all())
    return {
        **_exploration(rollouts, grids),
        **(_per_query(grids) if is_even else {}),
        **_selection(rollouts, selection),
        **_rewards(rollouts, sampler.scorer),
        **_completions(rollouts),
        **sampler.logged_metrics(),
    }


def sampling_bar(requests: Sequence[Request], *, shown: bool) -> tqdm:
    """A progress bar for the responses of these requests."""
    total = sum(len(request.query_ids) * request.n for request in requests)
    temperatures = ", ".join(f"{request.temperature:g}" for request in requests)
    return tqdm(total=total, desc=f"Sampling at T = {temperatures}", leave=False, disable=not (shown and total))


def pass_metrics(correct_NK: np.ndarray, text_ids_NK: np.ndarray) -> dict[str, float]:
    """`pass@1`, `pass@<K>` and `pass@<K>-4`; the last is left out where K < 4."""
    k = correct_NK.shape[1]
    figures = {"pass@1": float(correct_NK.mean()), f"pass@{k}": float(metrics.pass_at_k(correct_NK))}
    if k >= PASS_S:
        figures[f"pass@{k}-{PASS_S}"] = float(metrics.pass_at_k_s(correct_NK, text_ids_NK, s=PASS_S))
    return figures


def _exploration(rollouts: Rollouts, grids: Grids) -> dict[str, float]:
    coolest = rollouts.temperatures_R.min()  # subtracted first, so that equal temperatures average exactly
    figures = {
        "temperature": float(coolest + (rollouts.temperatures_R - coolest).mean()),
        "completions": float(len(rollouts)),
        "pass@1": float(rollouts.correct_R.mean()),
        "truncated": float(1 - rollouts.ended_R.mean()),
        "unjudged": float(1 - rollouts.judged_R.mean()),
        "distinct_equations": _distinct_equations(rollouts, grids),
    }
    # `distinct_equations` is NaN where no correct response holds an equation.
    return {f"explore/{name}": value for name, value in figures.items() if not math.isnan(value)}


def _distinct_equations(rollouts: Rollouts, grids: Grids) -> float:
    """Paper, section 2.2: unique equations among all of the correct responses."""
    index_NK, correct_NK = grids.index_NK[:EQUATION_QUERIES], grids.correct_NK[:EQUATION_QUERIES]
    texts = [item.text for item in rollouts.reader.read(rollouts.rows_R[index_NK[correct_NK]])]
    ends = np.cumsum(correct_NK.sum(axis=1))
    per_query = [texts[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    return float(metrics.distinct_equations(per_query, [[True] * len(responses) for responses in per_query]))


def _per_query(grids: Grids) -> dict[str, float]:
    """Exploration and exploitation of K responses per query."""
    k = grids.correct_NK.shape[1]
    figures = {
        **pass_metrics(grids.correct_NK, grids.text_ids_NK),
        "distinct": float(np.mean([len(np.unique(row)) / len(row) for row in grids.text_ids_NK])),
        f"best_of_{k}": float(metrics.best_of_k(grids.rewards_NK, grids.correct_NK)),
    }
    if k >= PASS_S:
        figures[f"reward@{k}-{PASS_S}"] = float(metrics.reward_at_k_s(grids.rewards_NK, grids.correct_NK, s=PASS_S))
    return {f"explore/{name}": value for name, value in figures.items()}


def _selection(rollouts: Rollouts, selection: Selection) -> dict[str, float]:
    chosen = selection.rollouts
    queries = len(np.unique(chosen.query_ids_R))
    return {
        "select/samples": float(len(chosen)),
        "select/shortfall": float(selection.wanted - len(chosen)),
        "select/queries": queries / len(np.unique(rollouts.query_ids_R)),
        "select/per_query": len(chosen) / queries,
        "select/correct": float(chosen.correct_R.mean()),
        "select/reward": float(chosen.rewards_R.mean()),
    }


def _rewards(rollouts: Rollouts, scorer: Scorer) -> dict[str, float]:
    figures = {"reward": float(rollouts.rewards_R.mean()), "reward_std": float(rollouts.rewards_R.std())}
    for index, name in enumerate(scorer.names):
        values = rollouts.values_RF[:, index]
        values = values[~np.isnan(values)]
        if len(values):
            figures |= {f"rewards/{name}/mean": float(values.mean()), f"rewards/{name}/std": float(values.std())}
    return figures


def _completions(rollouts: Rollouts) -> dict[str, float]:
    lengths = rollouts.lengths_R
    figures = {
        "mean_length": float(lengths.mean()),
        "min_length": float(lengths.min()),
        "max_length": float(lengths.max()),
        "clipped_ratio": float(1 - rollouts.ended_R.mean()),
    }
    return {f"completions/{name}": value for name, value in figures.items()}


def explain_empty(rollouts: Rollouts, setting: Setting, args: BSTaRConfig) -> str:
    """Why nothing was selected, in a sentence that says what to change."""
    if not rollouts.ended_R.any():
        return (
            f"all {len(rollouts)} responses were cut off at max_completion_length="
            f"{args.max_completion_length}: raise it, or use a model that ends its responses"
        )
    if not rollouts.judged_R.any():
        return "the verifier could judge no response (it returned None for all): look at its dataset column"
    if not rollouts.correct_R.any():
        return (
            f"no response of {len(rollouts)} was correct at temperature {setting.temperature:g}: try an easier "
            "dataset, more responses per query (num_generations), a stronger starting model, or another `correct_at` "
            "where the verifier's values are not 0 and 1"
        )
    if not rollouts.correct_R[rollouts.ended_R].any():
        return (
            f"every correct response was cut off at max_completion_length={args.max_completion_length}: raise it, or "
            "use a model that ends its responses"
        )
    highest = float(rollouts.rewards_R[rollouts.ended_R & rollouts.judged_R].max())
    return f"no reward exceeds the threshold {setting.threshold:g} (the highest is {highest:g}): lower the thresholds"


CompletionsTable = dict[str, list[Any]]


def completions_table(shown: Rollouts, selection: Selection, sampler: Sampler) -> CompletionsTable:
    """These responses by column, a row each: text, rewards, the verifier's reason, and whether it was selected.

    A collective: texts are read from the processes that sampled them.
    """
    return {
        "prompt": [sampler.rows[query_id]["prompt"] for query_id in shown.query_ids_R.tolist()],
        "completion": [item.text for item in shown.reader.read(shown.rows_R)],
        **{name: shown.values_RF[:, index].tolist() for index, name in enumerate(sampler.scorer.names)},
        "reward": shown.rewards_R.tolist(),
        "correct": shown.correct_R.tolist(),
        "reason": shown.reasons_R.tolist(),
        "temperature": shown.temperatures_R.tolist(),
        "ended": shown.ended_R.tolist(),
        "selected": np.isin(shown.rows_R, selection.rollouts.rows_R).tolist(),
    }


def log_completions(columns: CompletionsTable, args: BSTaRConfig, step: int) -> None:
    """Where `log_completions` is on: save the table as TRL does, print some of it, send it to W&B or trackio."""
    table = pd.DataFrame({"step": [step] * len(columns["prompt"]), **columns})
    folder = os.path.join(str(args.output_dir), "completions")
    os.makedirs(folder, exist_ok=True)
    table.to_parquet(os.path.join(folder, f"completions_{step:05d}.parquet"))
    if is_rich_available():
        _print_completions(table, args.num_completions_to_print)
    shown = table[~table["prompt"].astype(str).duplicated()] if args.log_unique_prompts else table
    trackers = args.report_to or []
    if "wandb" in trackers:
        import wandb

        if wandb.run is not None:
            wandb.log({"completions": wandb.Table(dataframe=shown)})
    if "trackio" in trackers:
        import trackio

        trackio.log({"completions": trackio.Table(dataframe=shown)})


def _print_completions(table: pd.DataFrame, most: int | None) -> None:
    from rich.console import Console
    from rich.table import Table

    names = [name for name in table.columns if name != "step"]
    printed = Table(*names, show_lines=True, title=f"Step {table['step'][0]}")
    for row in table[names].head(most).itertuples(index=False):
        printed.add_row(*(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row))
    Console().print(printed)
