"""What rollouts are worth: balance scores, the best threshold, and how much of it is luck."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from .balance import balance_scores, best_threshold
from .luck import ESTIMATE, learned_factor, lucky_share, scaled_chance
from .records import Rollouts, ScoreMap

logger = logging.getLogger(__name__)

MOST_THRESHOLDS = 21  # of a map
MUCH_LUCK = 0.2  # share of lucky responses that deserves a warning


class Appraiser:
    """Appraises rollouts by one target; remembers how lucky those were that were trained on.

    Args:
        target (`float`): n*, correct responses wanted per query.
        thresholds (`Sequence[float]`, *optional*): candidates; `None`: all that make a difference.
        chance (`float` or `"estimate"`): how often a verifier accepts wrong reasoning; an estimate is what the
            rollouts say of it, and more once the policy was trained on lucky responses.

    Attributes:
        trained_share (`float`, *optional*): estimated share of lucky responses among the correct ones above the
            threshold of the last iteration, which its selection was made from.
    """

    def __init__(self, target: float, thresholds: Sequence[float] | None, chance: float | Literal["estimate"]):
        self.target = target
        self.thresholds = thresholds
        self.chance = chance
        self.trained_share: float | None = None
        self._factor: float | None = None  # of the odds of luck in this iteration

    def begin(self) -> None:
        """Forget what the last responses said of the policy: it has changed since."""
        self._factor = None

    def with_chance(self, rollouts: Rollouts) -> Rollouts:
        """The same responses with the chance that is in force; the first ones since `begin` tell what was learned."""
        if self.chance != ESTIMATE:
            return dataclasses.replace(rollouts, chance_R=np.full(len(rollouts), float(self.chance)))
        if self._factor is None and rollouts.chance_R.any():
            grids = rollouts.grids
            self._factor = learned_factor(
                grids.chance_N, grids.correct_NK, grids.selectable_NK, trained_share=self.trained_share
            )
        return dataclasses.replace(rollouts, chance_R=scaled_chance(rollouts.chance_R, self._factor or 1.0))

    def scores(self, rollouts: Rollouts, threshold: float, *, corrected: bool = True) -> np.ndarray:
        """Balance score of each query at a threshold, corrected for luck or the paper's; (N,), in 0..1."""
        grids = rollouts.grids
        return balance_scores(
            grids.rewards_NK,
            grids.correct_NK,
            self.target,
            threshold,
            selectable_NK=grids.selectable_NK,
            **(grids.luck if corrected else {}),
        )

    def best_threshold(self, rollouts: Rollouts, *, in_force: float | None = None) -> float | None:
        """The threshold with the highest mean of the paper's score; `None` if no response is correct.

        What is expected by luck is not taken off here: nobody knows which responses are lucky, and a threshold that
        keeps most of them out keeps many others out as well (docs/luck.md).

        Args:
            rollouts (`Rollouts`): responses at one temperature.
            in_force (`float`, *optional*): a threshold that stays unless another is better by a standard error.
        """
        if not len(rollouts):
            return None
        grids = rollouts.grids
        found, score = best_threshold(
            grids.rewards_NK,
            grids.correct_NK,
            self.target,
            selectable_NK=grids.selectable_NK,
            thresholds=self.thresholds,
        )
        if score == 0:
            return None
        if in_force is None or (self.thresholds is not None and in_force not in self.thresholds):
            return found
        mine, theirs = (self.scores(rollouts, threshold, corrected=False) for threshold in (found, in_force))
        gain, error = mean_and_error(mine - theirs)
        return found if gain > error else in_force

    def score_map(self, rollouts: Rollouts) -> ScoreMap:
        """Mean balance score, corrected for luck, at every temperature of these responses and up to 21 thresholds:
        the candidates, or as many from below the lowest reward to the highest."""
        temperatures_T = np.unique(rollouts.temperatures_R)
        low, high = float(rollouts.rewards_R.min()), float(rollouts.rewards_R.max())
        width = (high - low) or 1.0
        grid = np.linspace(low - width / (MOST_THRESHOLDS - 1), high, MOST_THRESHOLDS)
        if self.thresholds is not None and len(self.thresholds) <= MOST_THRESHOLDS:
            grid = np.array(sorted(self.thresholds))
        by_temperature = [rollouts.at(temperature) for temperature in temperatures_T.tolist()]
        scores_TH = [[self.scores(part, tau).mean() for tau in grid.tolist()] for part in by_temperature]
        num_queries = [len(part.grids.rewards_NK) for part in by_temperature]
        return ScoreMap(temperatures_T, grid, np.array(scores_TH), np.array(num_queries))

    def lucky_share(self, rollouts: Rollouts, threshold: float) -> float:
        """Expected share of lucky responses among the selectable correct ones above a threshold, in 0..1."""
        grids = rollouts.grids
        return lucky_share(grids.rewards_NK, grids.correct_NK, grids.selectable_NK, threshold, **grids.luck)


def mean_and_error(scores_N: np.ndarray) -> tuple[float, float]:
    """Mean of scores in 0..1 and its standard error (of a single one the largest possible); zeros of nothing."""
    if not len(scores_N):
        return 0.0, 0.0
    error = scores_N.std(ddof=1) / math.sqrt(len(scores_N)) if len(scores_N) > 1 else 0.5
    return float(scores_N.mean()), float(error)


def warn_of_luck(share: float, earlier: Sequence[float]) -> None:
    """Warn of a large share of lucky responses, unless one of the earlier iterations had one already."""
    if share <= MUCH_LUCK or max(earlier, default=0.0) > MUCH_LUCK:
        return
    logger.warning(
        "About %.0f %% of the correct responses above the threshold are right by luck: wrong reasoning that ends on "
        "the right answer. Add a reward that reads the reasoning (such as ProcessReward), ask for answers that are "
        "harder to guess, or try lower temperatures. Later iterations do not repeat this; select/lucky_share tells.",
        100 * share,
    )
