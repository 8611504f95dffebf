"""The figures of an iteration and of an evaluation, under the names of the logs."""

from __future__ import annotations

import math

import numpy as np

from .. import metrics
from ..records import Exploration, Grids, Rollouts, Selection, Setting
from ..rollouts.round import Sampler
from ..rollouts.scoring import Scorer

EQUATION_QUERIES = 100  # distinct equations are measured on this many queries, because reading texts is slow
PASS_S = 4
EQUAL_REWARDS = "frac_reward_zero_std"  # TRL's name


def iteration_metrics(
    exploration: Exploration, setting: Setting, selection: Selection, sampler: Sampler
) -> dict[str, float]:
    """Figures of one iteration's exploration and selection, under the names of the logs.

    `explore/*` and `select/*` are this package's; `reward`, `rewards/<name>/*` and `completions/*` are TRL's names.
    So that iterations can be compared, `explore/*`, rewards and lengths are about responses at the chosen temperature
    that were sampled before anything was known about their query; those that need K responses per query are about the
    queries that were explored with K in any case. Figures of one of several verifiers end in its name. A collective.
    """
    verifiers = sampler.scorer.verifiers
    chosen, first, even = selection.rollouts, exploration.sampled_first, exploration.evenly_sampled
    figures = _exploration(first, even) | _selection(exploration.rollouts, selection)
    figures["explore/completions"] = float(len(exploration.rollouts))
    grids = exploration.rollouts.grids
    candidates_NK = verifiers.candidates(exploration.rollouts, setting.threshold)
    figures["select/available"] = float((candidates_NK & (grids.rewards_NK > setting.threshold)).sum())
    if not verifiers.are_relative:
        figures |= _correctness(first, even) | {"select/correct": float(chosen.correct_R.mean())}
        figures |= _agreement(first, sampler.scorer)
    firsts, evens = verifiers.split(first), verifiers.split(even)
    for name, mine in firsts.items():
        passes = pass_metrics(mine, evens.get(name))
        figures |= {f"explore/{figure}/{name}": value for figure, value in passes.items()}
    for name, mine in verifiers.split(exploration.rollouts).items():
        figures[f"select/samples/{name}"] = float(np.isin(chosen.query_ids_R, mine.query_ids_R).sum())
    figures |= reward_metrics(first, sampler.scorer) | completion_metrics(first) | sampler.logged_metrics()
    # Four equal rewards are likelier than sixteen, so this is about queries with the same number of responses.
    return figures | {EQUAL_REWARDS: share_of_equal_rewards(even)}


def pass_metrics(first: Rollouts, even: Rollouts | None) -> dict[str, float]:
    """`pass@1`; and, of queries that have K responses each, `pass@<K>` and (from K = 4 on) `pass@<K>-4`."""
    figures = {"pass@1": float(first.correct_R.mean())}
    if even is not None and _is_even(even.grids):
        grids = even.grids
        k = grids.correct_NK.shape[1]
        figures[f"pass@{k}"] = float(metrics.pass_at_k(grids.correct_NK))
        if k >= PASS_S:
            figures[f"pass@{k}-{PASS_S}"] = float(metrics.pass_at_k_s(grids.correct_NK, grids.text_ids_NK, s=PASS_S))
    return figures


def reward_metrics(rollouts: Rollouts, scorer: Scorer) -> dict[str, float]:
    """TRL's figures of the rewards: total, each function's, and the share of queries whose rewards are all equal."""
    figures = {
        "reward": float(rollouts.rewards_R.mean()),
        "reward_std": float(rollouts.rewards_R.std()),
        EQUAL_REWARDS: share_of_equal_rewards(rollouts),
    }
    for index, name in enumerate(scorer.names):
        values = rollouts.values_RF[:, index]
        values = values[~np.isnan(values)]
        if len(values):
            figures |= {f"rewards/{name}/mean": float(values.mean()), f"rewards/{name}/std": float(values.std())}
    return figures


def share_of_equal_rewards(rollouts: Rollouts) -> float:
    """Share of queries whose responses all have one reward."""
    _, inverse = np.unique(rollouts.query_ids_R, return_inverse=True)
    low_N, high_N = np.full(inverse.max() + 1, math.inf), np.full(inverse.max() + 1, -math.inf)
    np.minimum.at(low_N, inverse, rollouts.rewards_R)
    np.maximum.at(high_N, inverse, rollouts.rewards_R)
    return float((low_N == high_N).mean())


def completion_metrics(rollouts: Rollouts) -> dict[str, float]:
    """TRL's figures of the responses' lengths, in tokens; *terminated* ones ended by themselves (0: none did)."""
    lengths = rollouts.lengths_R
    ended = lengths[rollouts.ended_R] if rollouts.ended_R.any() else np.zeros(1)
    figures = {
        "mean_length": lengths.mean(),
        "min_length": lengths.min(),
        "max_length": lengths.max(),
        "mean_terminated_length": ended.mean(),
        "min_terminated_length": ended.min(),
        "max_terminated_length": ended.max(),
        "clipped_ratio": 1 - rollouts.ended_R.mean(),
    }
    return {f"completions/{name}": float(value) for name, value in figures.items()}


def _exploration(first: Rollouts, even: Rollouts) -> dict[str, float]:
    coolest = first.temperatures_R.min()  # subtracted first, so that equal temperatures average exactly
    figures = {
        "explore/temperature": float(coolest + (first.temperatures_R - coolest).mean()),
        "explore/truncated": float(1 - first.ended_R.mean()),
        "explore/unjudged": float(1 - first.judged_R.mean()),
    }
    if _is_even(even.grids):
        figures["explore/distinct"] = float(
            np.mean([len(np.unique(row)) / len(row) for row in even.grids.text_ids_NK])
        )
    return figures


def _correctness(first: Rollouts, even: Rollouts) -> dict[str, float]:
    """Exploration and exploitation of K responses per query."""
    grids = even.grids
    figures = pass_metrics(first, even)
    if _is_even(grids):
        k = grids.correct_NK.shape[1]
        never, sometimes, always = metrics.solved_shares(grids.correct_NK)
        figures |= {"solved_never": never, "solved_sometimes": sometimes, "solved_always": always}
        figures["unique_correct"] = float(metrics.unique_correct(grids.correct_NK, grids.text_ids_NK).mean())
        figures[f"best_of_{k}"] = float(metrics.best_of_k(grids.rewards_NK, grids.correct_NK))
        if k >= PASS_S:
            figures[f"reward@{k}-{PASS_S}"] = float(
                metrics.reward_at_k_s(grids.rewards_NK, grids.correct_NK, s=PASS_S)
            )
    equations = _distinct_equations(even, grids)
    if not math.isnan(equations):  # no correct response holds one
        figures["distinct_equations"] = equations
    return {f"explore/{name}": value for name, value in figures.items()}


def _agreement(first: Rollouts, scorer: Scorer) -> dict[str, float]:
    """How well the other rewards together tell the verifiers' correct responses from wrong ones of the same query."""
    others = [index for index in range(len(scorer.names)) if index not in scorer.verifiers.indices]
    if not others:
        return {}
    grids, values_RF = first.grids, first.values_RF[:, others]
    values_R = np.nan_to_num(values_RF) @ scorer.weights_F[others]
    values_R = np.where(np.isnan(values_RF).all(axis=1), np.nan, values_R)
    values_NK = np.where(grids.index_NK >= 0, values_R[grids.index_NK], np.nan)
    found = metrics.agreement(values_NK, grids.correct_NK)
    return {} if math.isnan(found) else {"explore/agreement": found}


def _is_even(grids: Grids) -> bool:
    """Whether there are queries, all with as many responses: a user's `explore` may sample unevenly."""
    return bool(grids.index_NK.size and (grids.index_NK >= 0).all())


def _distinct_equations(rollouts: Rollouts, grids: Grids) -> float:
    """Paper, section 2.2: unique equations among all of the correct responses."""
    index_NK, correct_NK = grids.index_NK[:EQUATION_QUERIES], grids.correct_NK[:EQUATION_QUERIES]
    texts = [item.text for item in rollouts.reader.read(rollouts.rows_R[index_NK[correct_NK]])]
    ends = np.cumsum(correct_NK.sum(axis=1))
    per_query = [texts[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    return float(metrics.distinct_equations(per_query, [[True] * len(responses) for responses in per_query]))


def _selection(rollouts: Rollouts, selection: Selection) -> dict[str, float]:
    chosen = selection.rollouts
    queries = len(np.unique(chosen.query_ids_R))
    return {
        "select/samples": float(len(chosen)),
        "select/shortfall": float(selection.wanted - len(chosen)),
        "select/queries": queries / len(np.unique(rollouts.query_ids_R)),
        "select/per_query": len(chosen) / queries,
        "select/reward": float(chosen.rewards_R.mean()),
    }
