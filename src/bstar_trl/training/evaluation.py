"""Evaluation: greedy and sampled metrics on held-out rows, in a loop over rows with an index.

TRL's evaluation loader splits the repeats of a query over batches and pads with duplicates, so its figures per query
would be wrong. A likelihood of unselected samples means nothing, so there is no `eval_loss`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import DatasetError
from ..records import Request
from ..rollouts.round import Sampler
from .logging import pass_metrics

GREEDY = 0.0


def evaluation_datasets(given: Any, of_trainer: Any) -> dict[str, Any]:
    """Datasets to evaluate on, by the suffix of the metrics' prefix: `""`, or `_<name>` where there are several.

    `given` is a dataset, a dict of them, the name of one of the trainer's, or `None`: the trainer's.

    Raises:
        DatasetError: there is no dataset, or none of that name.
    """
    if isinstance(given, str):
        known = of_trainer if isinstance(of_trainer, dict) else {}
        if given not in known:
            raise DatasetError(f"eval_dataset must name one of {list(known)}, got {given!r}")
        return {"": known[given]}
    given = of_trainer if given is None else given
    if given is None:
        raise DatasetError("evaluation needs an eval_dataset: pass one here or to the trainer")
    return {f"_{name}": dataset for name, dataset in given.items()} if isinstance(given, dict) else {"": given}


def evaluation_metrics(
    sampler: Sampler, query_ids: Sequence[int], *, num_generations: int, temperature: float, seed: int
) -> dict[str, float]:
    """Metrics of the policy on these queries, from one greedy and K = `num_generations` sampled responses to each.

    Returns:
        `dict[str, float]`: `greedy_pass@1`; `pass@1` (mean over K), `pass@<K>`, `pass@<K>-4` (where K >= 4) and
        `reward` of the sampled ones; and what the reward functions log.
    """
    ids = tuple(query_ids)
    rollouts = sampler([Request(ids, GREEDY, 1, seed), Request(ids, float(temperature), num_generations, seed)])
    greedy, sampled = rollouts.at(GREEDY), rollouts.at(float(temperature))
    grids = sampled.grids
    return {
        "greedy_pass@1": float(greedy.correct_R.mean()),
        **pass_metrics(grids.correct_NK, grids.text_ids_NK),
        "reward": float(np.mean(sampled.rewards_R)),
        **sampler.logged_metrics(),
    }
