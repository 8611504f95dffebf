"""An evaluation from its options to figures with intervals."""

from __future__ import annotations

import dataclasses
import tempfile
from typing import Any

import numpy as np

from .. import metrics
from ..records import Rollouts
from ..rollouts.judging import Verifiers
from ..training.evaluation import Evaluated
from ..training.figures import PASS_S
from .parsing import Options
from .prompts import rows_to_evaluate
from .train import build_trainer

Figure = dict[str, float]  # mean, low, high


def evaluate(options: Options) -> dict[str, Any]:
    """Sample one greedy and K responses to every row, and measure them.

    Args:
        options (`Options`): as of a training. Evaluated are the rows of `eval_dataset_name`, of `dataset_test_split`,
            or else of `dataset_name`.

    Returns:
        `dict`: `model`, `dataset`, `rows`, `temperature`, `num_generations`, `seed`, and `figures`: mean, `low` and
        `high` (95 %, bootstrap over queries) of each.

    Raises:
        ConfigurationError, DatasetError: as of [`build_trainer`].
    """
    args = options.args
    args.eval_strategy, args.report_to, args.save_strategy = "no", [], "no"
    # Of an iteration, which may be larger than the data, nothing is needed; nor is a folder.
    args.queries_per_iteration = args.samples_per_iteration = args.iteration_steps = args.balance_target = None
    data = rows_to_evaluate(options.data)
    with tempfile.TemporaryDirectory() as folder:
        args.output_dir = folder
        trainer = build_trainer(dataclasses.replace(options, data=data), shows_table=False)
        evaluated, _ = trainer.sample_evaluation(trainer.train_dataset)
        trainer.scorer.close()
    return {
        "model": options.model.model_name_or_path,
        "dataset": data.dataset_name,
        "rows": len(evaluated.greedy),
        "temperature": args.temperature,
        "num_generations": args.num_eval_generations,
        "seed": args.seed,
        "figures": with_intervals(evaluated, trainer.scorer.verifiers),
    }


def with_intervals(evaluated: Evaluated, verifiers: Verifiers) -> dict[str, Figure]:
    """Every figure of an evaluation with its interval."""
    values = per_query(evaluated, is_relative=verifiers.are_relative)
    by_verifier = verifiers.split(evaluated.greedy)
    for name, sampled in verifiers.split(evaluated.sampled).items():
        mine = per_query(Evaluated(by_verifier[name], sampled), is_relative=False)
        values |= {f"{figure}/{name}": found for figure, found in mine.items()}
    return {name: _figure(found_N) for name, found_N in values.items()}


def per_query(evaluated: Evaluated, *, is_relative: bool) -> dict[str, np.ndarray]:
    """Figures of each query, (N,) each: exploration, exploitation, rewards, lengths.

    Args:
        evaluated (`Evaluated`): greedy and sampled responses.
        is_relative (`bool`): nothing says which responses are correct; a reward model only compares them.
    """
    sampled, grids = evaluated.sampled, evaluated.sampled.grids
    k = grids.correct_NK.shape[1]
    found: dict[str, Any] = {}
    if not is_relative:
        found["greedy_pass@1"] = evaluated.greedy.grids.correct_NK[:, 0].astype(np.float64)
        found["pass@1"] = grids.correct_NK.mean(axis=1)
        found[f"pass@{k}"] = metrics.pass_at_k(grids.correct_NK, per_query=True)
        if k >= PASS_S:
            ids = grids.text_ids_NK
            found[f"pass@{k}-{PASS_S}"] = metrics.pass_at_k_s(grids.correct_NK, ids, s=PASS_S, per_query=True)
        found["unique_correct"] = metrics.unique_correct(grids.correct_NK, grids.text_ids_NK).astype(np.float64)
        found[f"best_of_{k}"] = metrics.best_of_k(grids.rewards_NK, grids.correct_NK, per_query=True)
        if k >= PASS_S:
            found[f"reward@{k}-{PASS_S}"] = metrics.reward_at_k_s(
                grids.rewards_NK, grids.correct_NK, s=PASS_S, per_query=True
            )
    found["distinct"] = np.array([len(np.unique(row)) / len(row) for row in grids.text_ids_NK])
    found["reward"] = grids.rewards_NK.mean(axis=1)
    found["truncated"] = 1.0 - _of_rollouts(sampled, sampled.ended_R)
    found["length"] = _of_rollouts(sampled, sampled.lengths_R)
    return found


def _of_rollouts(rollouts: Rollouts, values_R: np.ndarray) -> np.ndarray:
    means: np.ndarray = values_R[rollouts.grids.index_NK].mean(axis=1)
    return means


def _figure(values_N: np.ndarray) -> Figure:
    low, high = metrics.bootstrap_interval(values_N)
    return {"mean": float(values_N.mean()), "low": low, "high": high}
