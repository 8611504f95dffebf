"""Evaluation: greedy and sampled metrics on held-out rows, in a loop over rows with an index.

TRL's evaluation loader splits the repeats of a query over batches and pads with duplicates, so its figures per query
would be wrong. A likelihood of unselected samples means nothing, so there is no `eval_loss`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import DatasetError
from ..records import Request, Rollouts
from ..rollouts.round import Sampler
from .figures import completion_metrics, pass_metrics, reward_metrics

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


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation sampled.

    Args:
        greedy (`Rollouts`): one response to each query, at temperature 0.
        sampled (`Rollouts`): K responses to each.
    """

    greedy: Rollouts
    sampled: Rollouts


def sample_evaluation(
    sampler: Sampler, query_ids: Sequence[int], *, num_generations: int, temperature: float, seed: int
) -> Evaluated:
    """One greedy and K = `num_generations` sampled responses to each of these queries. A collective."""
    ids = tuple(query_ids)
    rollouts = sampler([Request(ids, GREEDY, 1, seed), Request(ids, float(temperature), num_generations, seed)])
    return Evaluated(rollouts.at(GREEDY), rollouts.at(float(temperature)))


def evaluation_metrics(evaluated: Evaluated, sampler: Sampler) -> dict[str, float]:
    """Metrics of the policy on the queries that `sampler` was asked.

    Returns:
        `dict[str, float]`: `greedy_pass@1`; of the sampled responses `pass@1` (mean over K), `pass@<K>` and
        `pass@<K>-4` (from K = 4 on), and TRL's figures of rewards and lengths; and what the reward functions log.
        Figures of one of several verifiers end in its name. A reward model alone has no `pass@*`.
    """
    greedy, sampled = evaluated.greedy, evaluated.sampled
    verifiers = sampler.scorer.verifiers
    figures: dict[str, float] = {}
    if not verifiers.are_relative:
        figures = {"greedy_pass@1": float(greedy.correct_R.mean()), **pass_metrics(sampled, sampled)}
    by_verifier = verifiers.split(greedy)
    for name, mine in verifiers.split(sampled).items():
        figures[f"greedy_pass@1/{name}"] = float(by_verifier[name].correct_R.mean())
        figures |= {f"{figure}/{name}": value for figure, value in pass_metrics(mine, mine).items()}
    figures |= reward_metrics(sampled, sampler.scorer) | completion_metrics(sampled)
    figures["num_tokens"] = float(sampler.trainer_state.num_input_tokens_seen)  # of the training so far, as in TRL
    return figures | sampler.logged_metrics()
