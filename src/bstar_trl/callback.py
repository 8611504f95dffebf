"""`BalanceCallback` chooses temperature and threshold in every iteration (paper, section 3.3 and algorithm 1)."""

from __future__ import annotations

import dataclasses
import logging
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from transformers import IntervalStrategy, TrainerCallback

from .allocation import ROUND, Rounds
from .appraisal import Appraiser, mean_and_error, warn_of_luck
from .arguments import grid_of, one_of
from .config import IterationPlan
from .errors import ConfigurationError
from .luck import ESTIMATE
from .probe import Order, TemperatureSearch
from .records import Exploration, Request, Rollouts, Setting, concatenate
from .search import Prior
from .shares import Search, Shares

logger = logging.getLogger(__name__)

DEFAULT_TEMPERATURES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
PAPER_TEMPERATURES = DEFAULT_TEMPERATURES
PAPER_THRESHOLDS = tuple(step / 10 for step in range(-10, 11))

SampleRound = Callable[[Sequence[Request]], Rollouts]


class BalanceCallback(TrainerCallback):
    """
    Chooses the sampling temperature and the reward threshold of each iteration: the pair with the largest mean balance
    score (equation 3 of the paper) on responses of the current policy.

    The first queries of an iteration are explored at several temperatures, a slice of them at each; their responses
    are training material like all others. The other queries are explored at the temperature that won, a few responses
    at a time, until they have what is wanted of them. Right answers that are to be expected by luck do not count. With
    one temperature nothing is searched; with one threshold and `allocation="fixed"` besides, this is the static method
    (Online RFT).

    Args:
        temperatures (`float` or `Sequence[float]`, *optional*, defaults to `0.5, 0.6, ..., 1.2`):
            Candidates, each greater than 0. `None`: the trainer's `args.temperature` alone.
        thresholds (`float` or `Sequence[float]`, *optional*):
            Candidates. `None`: the search is exact, over all thresholds that make a difference.
        num_queries (`int`, *optional*):
            Queries that the temperature is chosen on. `None`: for slices a quarter of the iteration's, or, where the
            other queries are sampled in rounds, a sixteenth or 3 for each temperature; for a grid an eighth; at most
            600.
        search (`str`, *optional*):
            `"slices"`: each of these queries at one temperature, nothing sampled in vain. `"grid"`: each of them at
            every temperature, as in the paper; the responses at those that lose are thrown away. `None`: slices, or a
            grid where a quarter of the queries is less than one for each temperature, or `threshold_on="probe"`.
        allocation (`str`, *optional*):
            `"rounds"`: the queries after the search are sampled 4 responses at a time, until they have n* good ones
            (correct, selectable, above the threshold) or had K, which saves about a fifth. As many queries as the
            search had, and at least 24 together with the winner's slice, get K in any case, to choose the threshold
            and to measure on. `"fixed"`: K for every query, as for 4 responses or fewer, and for a reward model that
            is the only reward and has no `correct_at`, which compares a query's responses. `None`: rounds where
            verifiers are the only rewards; fixed where a scorer picks the best of the correct responses, which takes
            more of them than are wanted.
        reinvest (`str`, *optional*):
            `"hard"`: what rounds save is spent on this iteration's queries that have no good response yet, up to 2 K
            for each. `None`: it is saved.
        chance (`float` or `"estimate"`, *optional*, defaults to `"estimate"`):
            How often a verifier accepts wrong reasoning, in [0, 1). `"estimate"`: what the reward function says
            (`RewardFn.chance`), and more once the policy was trained on lucky responses. 0: the paper's score.
        smooth (`bool`, *optional*, defaults to `True`):
            Share strength between neighbouring temperatures and with the last iteration: its temperature and its
            threshold stay where the difference is noise.
        threshold_on (`str`, *optional*, defaults to `"all"`):
            Responses that the threshold is chosen on: `"all"` at the temperature that won to queries with K of them,
            or those of the grid's `"probe"`, as in the paper.

    Attributes:
        history (`list[dict[str, float]]`): one entry per iteration under the names of the logs: `balance/score`,
            `balance/score_se` (its standard error), `balance/temperature`, `balance/threshold`, `balance/chance`,
            `balance/probe_completions`, `balance/probe_seconds`, `balance/extra_completions` (sampled and thrown
            away), `balance/saved_completions` (of K for every query), `select/lucky_share` (estimated).
        setting (`Setting`): the one in force.

    A subclass may replace [`explore`] and [`settle`].

    Raises:
        ConfigurationError: an empty grid, a temperature that is not greater than 0, a threshold that is not finite, a
            chance outside [0, 1), a word that an argument does not know, or arguments that contradict each other.
    """

    def __init__(
        self,
        temperatures: float | Sequence[float] | None = DEFAULT_TEMPERATURES,
        thresholds: float | Sequence[float] | None = None,
        num_queries: int | None = None,
        *,
        search: Search | None = None,
        allocation: Literal["rounds", "fixed"] | None = None,
        reinvest: Literal["hard"] | None = None,
        chance: float | Literal["estimate"] = "estimate",
        smooth: bool = True,
        threshold_on: Literal["all", "probe"] = "all",
    ):
        self._given_temperatures = None if temperatures is None else grid_of("temperatures", temperatures)
        for value in self._given_temperatures or ():
            if value <= 0:
                raise ConfigurationError(f"temperatures must be greater than 0, got {value:g}")
        self.thresholds = None if thresholds is None else grid_of("thresholds", thresholds)
        if num_queries is not None and (not isinstance(num_queries, int) or num_queries < 1):
            raise ConfigurationError(f"num_queries must be a whole number of at least 1, got {num_queries}")
        self._given_num_queries = num_queries
        self._given_search = one_of("search", search, (None, "slices", "grid"))
        self.allocation = one_of("allocation", allocation, (None, "rounds", "fixed"))
        self.reinvest = one_of("reinvest", reinvest, (None, "hard"))
        if self.reinvest and self.allocation == "fixed":
            raise ConfigurationError("reinvest='hard' spends what rounds save: it needs allocation='rounds'")
        if chance != ESTIMATE and not (isinstance(chance, numbers.Real) and 0 <= chance < 1):
            raise ConfigurationError(f"chance must be a number in [0, 1) or 'estimate', got {chance!r}")
        self.chance = chance
        self.smooth = smooth
        self.threshold_on = one_of("threshold_on", threshold_on, ("all", "probe"))
        if self.threshold_on == "probe" and self._given_search == "slices":
            raise ConfigurationError(
                "threshold_on='probe' needs search='grid': a slice is too small to choose the threshold on"
            )
        self._iteration_steps = 0  # `setup` says how many
        self.history: list[dict[str, float]] = []

    @classmethod
    def paper(
        cls,
        temperatures: float | Sequence[float] | None = PAPER_TEMPERATURES,
        thresholds: float | Sequence[float] | None = PAPER_THRESHOLDS,
        num_queries: int | None = None,
    ) -> BalanceCallback:
        """The method of the paper (sections 3.3 and 4.1): a probe of the same queries at every temperature, the pair
        with the highest mean of equation 3 among temperatures 0.5 to 1.2 and thresholds -1 to 1 in steps of 0.1, and K
        responses for every query.

        Args:
            temperatures: as of the class.
            thresholds: as of the class.
            num_queries: as of the class.
        """
        return cls(
            temperatures,
            thresholds,
            num_queries,
            search="grid",
            allocation="fixed",
            chance=0.0,
            smooth=False,
            threshold_on="probe",
        )

    @property
    def options(self) -> dict[str, Any]:
        """The arguments that it was made with, by their names, and ready for JSON."""
        return {
            "temperatures": self._given_temperatures,
            "thresholds": self.thresholds,
            "num_queries": self._given_num_queries,
            "search": self._given_search,
            "allocation": self.allocation,
            "reinvest": self.reinvest,
            "chance": self.chance,
            "smooth": self.smooth,
            "threshold_on": self.threshold_on,
        }

    @property
    def probes(self) -> bool:
        """Whether there is more than one temperature to choose from."""
        return self._given_temperatures is not None and len(self._given_temperatures) > 1

    @property
    def estimates_chance(self) -> bool:
        """Whether the trainer has to find out how often verifiers accept wrong reasoning."""
        return self.chance == ESTIMATE

    def setup(
        self,
        plan: IterationPlan,
        *,
        num_generations: int,
        temperature: float,
        seed: int,
        in_rounds: bool = True,
        ranked: bool = False,
    ) -> None:
        """Called by the trainer, before any weight is loaded, with the numbers of an iteration.

        Args:
            plan (`IterationPlan`): N, n* and the steps of an iteration.
            num_generations (`int`): K, responses per query.
            temperature (`float`): `args.temperature`, which the first iteration falls back to.
            seed (`int`): of the samples.
            in_rounds (`bool`): whether a few responses can be judged without the others of their query. A reward model
                that only compares them needs all K at once.
            ranked (`bool`): whether a scorer tells correct responses apart.

        Raises:
            ConfigurationError: as of [`Shares.of`].
        """
        self.temperatures = self._given_temperatures or (float(temperature),)
        wants_rounds = self.allocation == "rounds" or (self.allocation is None and (not ranked or bool(self.reinvest)))
        self._in_rounds = in_rounds and wants_rounds and num_generations > ROUND
        self._shares = Shares.of(
            plan.num_queries,
            len(self.temperatures),
            search=self._given_search,
            num_queries=self._given_num_queries,
            may_slice=self.threshold_on == "all",
            in_rounds=self._in_rounds,
        )
        self.search, self.num_queries = self._shares.search, self._shares.num_queries
        self.num_generations = num_generations
        self.target = plan.target
        self.appraiser = Appraiser(plan.target, self.thresholds, self.chance)
        self._iteration_steps = plan.num_steps
        self.history = []
        self.setting = Setting(
            temperature=self.temperatures[0] if len(self.temperatures) == 1 else float(temperature),
            threshold=self.thresholds[0] if self.thresholds is not None and len(self.thresholds) == 1 else 0.0,
        )
        self._rng = np.random.default_rng([seed, 1])
        self._find_temperature = TemperatureSearch(
            self.temperatures,
            self._shares,
            self._rng,
            num_generations=num_generations,
            target=plan.target,
            thresholds=self.thresholds,
            smooth=self.smooth,
        )
        self._agree: Callable[[Any], Any] = _as_it_is

    # ------------------------------------------------------------------ exploring

    def begin(self, sample: SampleRound, queries: Sequence[int]) -> Exploration:
        """Called by the trainer: what [`explore`] samples, with the chance of luck that is in force.

        Args:
            sample: as of [`explore`], before anything is known of luck.
            queries (`Sequence[int]`): the ids of the iteration's queries.
        """
        self.appraiser.begin()
        self._agree = getattr(sample, "agree", _as_it_is)
        found = Exploration.of(self.explore(lambda requests: self.appraiser.with_chance(sample(requests)), queries))
        self._agree = _as_it_is  # lets go of the sampler, which holds all responses
        return found

    def explore(self, sample: SampleRound, queries: Sequence[int]) -> Exploration:
        """Sample the iteration's responses, and find the temperature meanwhile.

        Args:
            sample: takes requests, returns their scored responses; one call is one submission to the engine. A
                collective where several processes train together.
            queries (`Sequence[int]`): the ids of the iteration's queries, in their seeded order.

        Returns:
            `Exploration`: the responses to select from, and what the search found and cost. A subclass may return
            bare `Rollouts`.
        """

        def ask(*orders: Order) -> Rollouts:
            return sample([self._request(*order) for order in orders if order[1]])

        probed = self._find_temperature(ask, self._agree, queries, in_force=self.setting.temperature)
        temperature = self.temperatures[0] if probed is None else probed.temperature
        threshold = None if probed is None else probed.threshold
        figures = {} if probed is None else dict(probed.figures)
        score_map = None if probed is None else self.appraiser.score_map(probed.rollouts)
        parts = [probed.kept] if probed is not None and len(probed.kept) else []
        explored = {query for part in parts for query in part.query_ids_R.tolist()}
        rest = [query for query in queries if query not in explored]
        most = self.num_generations
        at_winner = sum(len(np.unique(part.at(temperature).query_ids_R)) for part in parts)
        num_even = self._shares.num_even(at_winner) if self._in_rounds else len(rest)
        in_rounds = rest[num_even:]
        if rest:
            parts.append(ask((temperature, rest[:num_even], most), (temperature, in_rounds, ROUND)))
        begun = concatenate(parts)
        first = begun.at(temperature)
        even = first.take(~np.isin(first.query_ids_R, in_rounds))
        if self.threshold_on == "all" or threshold is None:
            threshold = self._agree(self._best_threshold(even))
        rounds = Rounds(begun, lambda who, n: ask((temperature, who, n)), self._agree, threshold=threshold)
        rounds.until_good(in_rounds, wanted=math.ceil(self.target), tries=ROUND, most=most)
        if self.reinvest == "hard" and self._in_rounds:
            saved = len(queries) * most - len(rounds.rollouts)
            hard = [query for query, good in zip(queries, rounds.num_good(queries), strict=True) if not good]
            rounds.until_good(hard, wanted=1, tries=most, most=2 * most, budget=saved)
        figures["balance/saved_completions"] = float(len(queries) * most - len(rounds.rollouts))
        if score_map is None and len(even):
            score_map = self.appraiser.score_map(even)
        return Exploration(rounds.rollouts, temperature, threshold, figures, even, first, score_map)

    def _request(self, temperature: float, queries: Sequence[int], n: int) -> Request:
        seed = int(self._rng.integers(2**31))
        return Request(tuple(queries), temperature, n, seed)

    # ------------------------------------------------------------------ settling

    def settle(self, exploration: Exploration | Rollouts) -> Setting:
        """The iteration's setting: the temperature of the exploration, and the threshold chosen on its responses."""
        exploration = Exploration.of(exploration)
        rollouts, temperature = exploration.evenly_sampled, exploration.temperature
        if self.threshold_on == "probe" and exploration.threshold is not None:
            threshold = exploration.threshold
        else:
            threshold = self._best_threshold(rollouts)
        score, _ = mean_and_error(self.appraiser.scores(rollouts, threshold))
        if score <= 0:
            logger.warning(
                "No threshold scores above 0 at temperature %g; the threshold is %g.", temperature, threshold
            )
        self.setting = Setting(temperature, threshold, score)
        return self.setting

    def _best_threshold(self, rollouts: Rollouts) -> float:
        """The best threshold; the one in force where no response is correct, or the difference is noise."""
        in_force = self.setting.threshold if self.smooth and self.history else None
        found = self.appraiser.best_threshold(rollouts, in_force=in_force)
        return self.setting.threshold if found is None else found

    def record(self, setting: Setting, exploration: Exploration, num_sampled: int) -> dict[str, float]:
        """Add an iteration to the history; called by the trainer once its selection is made.

        Args:
            setting (`Setting`): the iteration's; it is in force from now on.
            exploration (`Exploration`): the iteration's.
            num_sampled (`int`): responses sampled in all, probes and empty rounds included.
        """
        setting = Setting(float(setting.temperature), float(setting.threshold), float(setting.score))
        self.setting = setting
        even = exploration.evenly_sampled
        share = self.appraiser.lucky_share(exploration.rollouts, setting.threshold)
        self.appraiser.trained_share = share
        entry = {
            "balance/score": setting.score,
            "balance/score_se": mean_and_error(self.appraiser.scores(even, setting.threshold))[1],
            "balance/temperature": setting.temperature,
            "balance/threshold": setting.threshold,
            "balance/chance": float(even.grids.chance_N.mean()),
            "balance/probe_completions": 0.0,
            "balance/probe_seconds": 0.0,
            "balance/saved_completions": 0.0,
            **{name: float(value) for name, value in exploration.figures.items()},
            "balance/extra_completions": float(num_sampled - len(exploration.rollouts)),
            "select/lucky_share": share,
        }
        warn_of_luck(share, [item.get("select/lucky_share", 0.0) for item in self.history])  # old checkpoints: none
        self.history.append(entry)
        return entry

    # ------------------------------------------------------------------ what the training loop sees

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse another trainer, which would never ask for a temperature."""
        if not self._iteration_steps:
            raise ConfigurationError("BalanceCallback works with BSTaRTrainer alone: replace GRPOTrainer by it")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log the last step of every iteration, so that no iteration is missing in the logs."""
        if state.global_step % self._iteration_steps == 0 and args.logging_strategy != IntervalStrategy.NO:
            control.should_log = True

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: history, setting, what the search and the luck remember, and the generator that
        seeds the samples."""
        return {
            "history": [dict(entry) for entry in self.history],
            "setting": dataclasses.asdict(self.setting),
            "prior": None if (prior := self._find_temperature.prior) is None else dataclasses.asdict(prior),
            "trained_share": self.appraiser.trained_share,
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.history = [dict(entry) for entry in state["history"]]
        self.setting = Setting(**state["setting"])
        prior = state.get("prior")  # checkpoints of earlier versions have none
        self._find_temperature.prior = None if prior is None else Prior(**prior)
        self.appraiser.trained_share = state.get("trained_share")
        self._rng.bit_generator.state = state["rng"]


def _as_it_is(value: Any) -> Any:
    """The decision of a process that trains alone."""
    return value
