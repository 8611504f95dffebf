"""The table of responses: what was sampled, what it earned, and what was selected."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pandas as pd
from transformers.utils import is_rich_available

from ..config import BSTaRConfig
from ..records import Rollouts, Selection
from ..rollouts.round import Sampler

CompletionsTable = dict[str, list[Any]]


def completions_table(shown: Rollouts, selection: Selection, sampler: Sampler) -> CompletionsTable:
    """These responses by column, a row each: text, rewards, the verifier's reason, and whether it was selected.

    A collective: texts are read from the processes that sampled them.
    """
    ours = {
        "reward": shown.rewards_R.tolist(),
        "correct": shown.correct_R.tolist(),
        "reason": shown.reasons_R.tolist(),
        "temperature": shown.temperatures_R.tolist(),
        "ended": shown.ended_R.tolist(),
        "selected": np.isin(shown.rows_R, selection.rollouts.rows_R).tolist(),
    }
    texts = {
        "prompt": [sampler.rows[query_id]["prompt"] for query_id in shown.query_ids_R.tolist()],
        "completion": [item.text for item in shown.reader.read(shown.rows_R)],
    }
    values = {
        f"rewards/{name}" if name in ours | texts else name: shown.values_RF[:, index].tolist()
        for index, name in enumerate(sampler.scorer.names)
    }
    return texts | values | ours


def log_completions(columns: CompletionsTable, args: BSTaRConfig, step: int) -> pd.DataFrame:
    """Where `log_completions` is on: save the table as TRL does, and print some of it.

    Returns:
        `pd.DataFrame`: the rows for trackers: all, or with `log_unique_prompts` one of each prompt.
    """
    table = pd.DataFrame({"step": [step] * len(columns["prompt"]), **columns})
    folder = os.path.join(str(args.output_dir), "completions")
    os.makedirs(folder, exist_ok=True)
    table.to_parquet(os.path.join(folder, f"completions_{step:05d}.parquet"))
    if is_rich_available():
        _print_completions(table, args.num_completions_to_print)
    return table[~table["prompt"].astype(str).duplicated()] if args.log_unique_prompts else table


def _print_completions(table: pd.DataFrame, most: int | None) -> None:
    from rich.console import Console
    from rich.table import Table

    names = [name for name in table.columns if name != "step"]
    printed = Table(*names, show_lines=True, title=f"Step {table['step'][0]}")
    for row in table[names].head(most).itertuples(index=False):
        printed.add_row(*(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row))
    Console().print(printed)
