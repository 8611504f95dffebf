"""`BalanceCallback` chooses temperature and threshold in every iteration (paper, section 3.3 and algorithm 1)."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from transformers import IntervalStrategy, TrainerCallback

from .balance import SAME_SCORE, best_threshold, mean_balance_score
from .config import IterationPlan
from .errors import ConfigurationError
from .records import Exploration, Request, Rollouts, Setting, concatenate

logger = logging.getLogger(__name__)

DEFAULT_TEMPERATURES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
MOST_PROBE_QUERIES = 600  # the paper's

SampleRound = Callable[[Sequence[Request]], Rollouts]


class BalanceCallback(TrainerCallback):
    """
    Chooses the sampling temperature and the reward threshold of each iteration: the pair with the largest mean balance
    score (equation 3 of the paper) on responses of the current policy.

    A probe samples a part of the iteration's queries at every temperature; the responses at the chosen one are kept
    as those queries' exploration. The threshold is then chosen once more on all responses of the iteration. With one
    temperature nothing is probed; with one threshold besides, this is the static method (Online RFT).

    Args:
        temperatures (`float` or `Sequence[float]`, *optional*, defaults to `0.5, 0.6, ..., 1.2`):
            Candidates, each greater than 0. `None`: the trainer's `args.temperature` alone.
        thresholds (`float` or `Sequence[float]`, *optional*):
            Candidates. `None`: the search is exact, over all thresholds that make a difference.
        num_queries (`int`, *optional*):
            Queries probed per iteration. `None`: an eighth of the iteration's, at most 600.
        threshold_on (`str`, *optional*, defaults to `"all"`):
            Responses that the threshold is chosen on: `"all"` of the iteration, or those of the `"probe"`, as in the
            paper.

    Attributes:
        history (`list[dict[str, float]]`): one entry per iteration under the names of the logs: `balance/score`,
            `balance/temperature`, `balance/threshold`, `balance/probe_completions`, `balance/probe_seconds`,
            `balance/extra_completions`.
        setting (`Setting`): the one in force.

    A subclass may replace [`explore`] and [`settle`].

    Raises:
        ConfigurationError: an empty grid, a temperature that is not greater than 0, a threshold that is not finite.
    """

    def __init__(
        self,
        temperatures: float | Sequence[float] | None = DEFAULT_TEMPERATURES,
        thresholds: float | Sequence[float] | None = None,
        num_queries: int | None = None,
        *,
        threshold_on: Literal["all", "probe"] = "all",
    ):
        self._given_temperatures = None if temperatures is None else _grid("temperatures", temperatures)
        for value in self._given_temperatures or ():
            if value <= 0:
                raise ConfigurationError(f"temperatures must be greater than 0, got {value:g}")
        self.thresholds = None if thresholds is None else _grid("thresholds", thresholds)
        if num_queries is not None and (not isinstance(num_queries, int) or num_queries < 1):
            raise ConfigurationError(f"num_queries must be a whole number of at least 1, got {num_queries}")
        if threshold_on not in ("all", "probe"):
            raise ConfigurationError(f"threshold_on must be 'all' or 'probe', got {threshold_on!r}")
        self._given_num_queries = num_queries
        self.threshold_on = threshold_on
        self._iteration_steps = 0  # `setup` says how many
        self.history: list[dict[str, float]] = []

    @property
    def probes(self) -> bool:
        """Whether there is more than one temperature to choose from."""
        return self._given_temperatures is not None and len(self._given_temperatures) > 1

    def setup(self, plan: IterationPlan, *, num_generations: int, temperature: float, seed: int) -> None:
        """Called by the trainer, before any weight is loaded, with the numbers of an iteration.

        Args:
            plan (`IterationPlan`): N, n* and the steps of an iteration.
            num_generations (`int`): K, responses per query.
            temperature (`float`): `args.temperature`, which the first iteration falls back to.
            seed (`int`): of the samples.
        """
        self.temperatures = self._given_temperatures or (float(temperature),)
        self.num_queries = self._given_num_queries or min(MOST_PROBE_QUERIES, math.ceil(plan.num_queries / 8))
        if self.num_queries > plan.num_queries:
            raise ConfigurationError(
                f"num_queries of the probe must be in 1..{plan.num_queries} (queries_per_iteration), got "
                f"{self.num_queries}"
            )
        self.num_generations = num_generations
        self.target = plan.target
        self._iteration_steps = plan.num_steps
        self.history = []
        self.setting = Setting(
            temperature=self.temperatures[0] if len(self.temperatures) == 1 else float(temperature),
            threshold=self.thresholds[0] if self.thresholds is not None and len(self.thresholds) == 1 else 0.0,
        )
        self._rng = np.random.default_rng([seed, 1])

    def explore(self, sample: SampleRound, queries: Sequence[int]) -> Exploration:
        """Sample the iteration's responses, and find the temperature meanwhile.

        Args:
            sample: takes requests, returns their scored responses; one call is one submission to the engine.
            queries (`Sequence[int]`): the ids of the iteration's queries, in their seeded order.

        Returns:
            `Exploration`: K responses for each query at the temperature that won, without the probe's responses at
            the other temperatures; and what the probe found and cost. A subclass may return bare `Rollouts`.
        """
        if len(self.temperatures) == 1:
            temperature = self.temperatures[0]
            return Exploration(sample([self._request(queries, temperature)]), temperature)
        started = time.perf_counter()
        probe_queries, others = queries[: self.num_queries], queries[self.num_queries :]
        probed = sample([self._request(probe_queries, temperature) for temperature in self.temperatures])
        best = self._best_of(probed)
        figures = {
            "balance/probe_completions": float(len(probed)),
            "balance/probe_seconds": time.perf_counter() - started,
        }
        kept = probed.at(best.temperature)
        if not len(kept):  # the previous temperature stays in force, and the probe did not try it
            others = queries
        parts = [kept] if len(kept) else []
        if others:
            parts.append(sample([self._request(others, best.temperature)]))
        return Exploration(concatenate(parts), best.temperature, best.threshold, figures)

    def settle(self, exploration: Exploration | Rollouts) -> Setting:
        """The iteration's setting: the temperature of the exploration, and the threshold chosen on its responses."""
        exploration = Exploration.of(exploration)
        rollouts, temperature = exploration.rollouts, exploration.temperature
        if self.threshold_on == "probe" and exploration.threshold is not None:
            grids = rollouts.grids
            threshold = exploration.threshold
            score = mean_balance_score(
                grids.rewards_NK, grids.correct_NK, self.target, threshold, selectable_NK=grids.selectable_NK
            )
        else:
            threshold, score = self._best_threshold(rollouts)
        if score <= 0:
            threshold = self.setting.threshold
            logger.warning(
                "No threshold scores above 0 at temperature %g; the previous threshold, %g, is kept.",
                temperature,
                threshold,
            )
        self.setting = Setting(temperature, threshold, score)
        return self.setting

    def record(self, setting: Setting, exploration: Exploration, num_sampled: int) -> dict[str, float]:
        """Add an iteration to the history; called by the trainer once its selection is made.

        Args:
            setting (`Setting`): the iteration's; it is in force from now on.
            exploration (`Exploration`): the iteration's.
            num_sampled (`int`): responses sampled in all, probes and empty rounds included.
        """
        setting = Setting(float(setting.temperature), float(setting.threshold), float(setting.score))
        self.setting = setting
        entry = {
            "balance/score": setting.score,
            "balance/temperature": setting.temperature,
            "balance/threshold": setting.threshold,
            "balance/probe_completions": 0.0,
            "balance/probe_seconds": 0.0,
            **{name: float(value) for name, value in exploration.figures.items()},
            "balance/extra_completions": float(num_sampled - len(exploration.rollouts)),
        }
        self.history.append(entry)
        return entry

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse another trainer, which would never ask for a temperature."""
        if not self._iteration_steps:
            raise ConfigurationError("BalanceCallback works with BSTaRTrainer alone: replace GRPOTrainer by it")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log the last step of every iteration, so that no iteration is missing in the logs."""
        if state.global_step % self._iteration_steps == 0 and args.logging_strategy != IntervalStrategy.NO:
            control.should_log = True

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: history, setting, and the generator that seeds the samples."""
        return {
            "history": [dict(entry) for entry in self.history],
            "setting": dataclasses.asdict(self.setting),
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.history = [dict(entry) for entry in state["history"]]
        self.setting = Setting(**state["setting"])
        self._rng.bit_generator.state = state["rng"]

    def _request(self, queries: Sequence[int], temperature: float) -> Request:
        seed = int(self._rng.integers(2**31))
        return Request(tuple(queries), temperature, self.num_generations, seed)

    def _best_threshold(self, rollouts: Rollouts) -> tuple[float, float]:
        grids = rollouts.grids
        return best_threshold(
            grids.rewards_NK,
            grids.correct_NK,
            self.target,
            selectable_NK=grids.selectable_NK,
            thresholds=self.thresholds,
        )

    def _best_of(self, probed: Rollouts) -> Setting:
        """The best pair on the probe: of equal scores the lowest temperature, of none the previous setting."""
        best = Setting(self.setting.temperature, self.setting.threshold, 0.0)
        for temperature in self.temperatures:
            threshold, score = self._best_threshold(probed.at(temperature))
            if score > best.score + SAME_SCORE:
                best = Setting(temperature, threshold, score)
        if best.score <= 0:
            logger.warning(
                "The probe found no correct response at any temperature (%s); the previous setting, T = %g, is kept.",
                ", ".join(f"{value:g}" for value in self.temperatures),
                best.temperature,
            )
        return best


def _grid(name: str, values: float | Sequence[float]) -> tuple[float, ...]:
    try:
        grid = tuple(map(float, [values] if isinstance(values, int | float) else values))
    except (TypeError, ValueError):
        raise ConfigurationError(f"{name} must be a number or a sequence of numbers, got {values!r}") from None
    if not grid:
        raise ConfigurationError(f"{name} must hold at least one value, got an empty grid")
    for value in grid:
        if not math.isfinite(value):
            raise ConfigurationError(f"{name} must be finite numbers, got {value}")
    return tuple(dict.fromkeys(sorted(grid)))
