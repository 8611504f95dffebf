"""What an iteration found beyond single figures, as plain values: a map of the score, histograms, some responses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..metrics import unique_correct
from ..records import Exploration, Rollouts, Selection, Setting

NUM_BINS = 20
SHOWN = 6  # selected responses, and as many that were not
LONGEST = 2000  # characters of a text that is shown


def iteration_details(
    exploration: Exploration, setting: Setting, selection: Selection, decode: Callable[[Sequence[int]], str]
) -> dict[str, Any]:
    """The details of an iteration, ready for JSON. A collective.

    Args:
        exploration, setting, selection: the iteration's.
        decode: makes text of tokens.

    Returns:
        `dict`: `temperature` and `threshold`; `score_map` (`temperatures`, `thresholds`, `scores` by both,
        `num_queries` by temperature), if the search saw one; `rewards` of the responses to select from, a histogram
        (`edges`, counts of `correct` and `wrong` ones); `unique_correct`, how many queries (explored with K responses)
        have 0, 1, ... different correct ones; `selected`, how many queries have 0, 1, ... selected ones; `responses`,
        some of both kinds, each with `prompt`, `text`, `reward`, `correct`, `reason`, `temperature`, `selected`.
    """
    rollouts = exploration.rollouts
    details: dict[str, Any] = {"temperature": setting.temperature, "threshold": setting.threshold}
    if (seen := exploration.score_map) is not None:
        details["score_map"] = {
            "temperatures": seen.temperatures_T.tolist(),
            "thresholds": seen.thresholds_H.tolist(),
            "scores": np.round(seen.scores_TH, 4).tolist(),
            "num_queries": seen.num_queries_T.tolist(),
        }
    edges = np.histogram_bin_edges(rollouts.rewards_R, NUM_BINS)
    details["rewards"] = {
        "edges": edges.tolist(),
        "correct": np.histogram(rollouts.rewards_R[rollouts.correct_R], edges)[0].tolist(),
        "wrong": np.histogram(rollouts.rewards_R[~rollouts.correct_R], edges)[0].tolist(),
    }
    grids = exploration.evenly_sampled.grids
    if grids.correct_NK.size:
        details["unique_correct"] = np.bincount(unique_correct(grids.correct_NK, grids.text_ids_NK)).tolist()
    queries = np.unique(rollouts.query_ids_R)
    chosen = np.isin(queries, selection.rollouts.query_ids_R)
    per_query = np.unique(selection.rollouts.query_ids_R, return_counts=True)[1]
    details["selected"] = np.bincount(np.append(per_query, np.zeros(int((~chosen).sum()), dtype=np.int64))).tolist()
    details["responses"] = _responses(rollouts, selection, decode)
    return details


def _responses(
    rollouts: Rollouts, selection: Selection, decode: Callable[[Sequence[int]], str]
) -> list[dict[str, Any]]:
    """Some selected ones and some others, of as many queries as there are; the same on every process."""
    selected_R = np.isin(rollouts.rows_R, selection.rollouts.rows_R)
    chosen: list[int] = []
    for kind_R in (selected_R, ~selected_R):
        places = np.flatnonzero(kind_R)
        _, first = np.unique(rollouts.query_ids_R[places], return_index=True)
        spread = np.linspace(0, len(first) - 1, min(SHOWN, len(first))).round().astype(np.int64)
        chosen += places[np.sort(first)[spread]].tolist()
    shown = rollouts.take(np.array(chosen, dtype=np.int64))
    completions = shown.reader.read(shown.rows_R)  # their prompts, too: the dataset's rows are not read again
    return [
        {
            "prompt": decode(item.prompt_ids)[:LONGEST],
            "text": item.text[:LONGEST],
            "reward": reward,
            "correct": correct,
            "reason": reason,
            "temperature": temperature,
            "selected": selected,
        }
        for item, reward, correct, reason, temperature, selected in zip(
            completions,
            shown.rewards_R.tolist(),
            shown.correct_R.tolist(),
            shown.reasons_R.tolist(),
            shown.temperatures_R.tolist(),
            selected_R[chosen].tolist(),
            strict=True,
        )
    ]
