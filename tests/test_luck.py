"""Luck: hand calculations, simulations of a guesser, and recordings where the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from conftest import SHARED, skip_without

from bstar_trl.balance import best_threshold, mean_balance_score
from bstar_trl.errors import ConfigurationError
from bstar_trl.luck import expected_lucky, learned_factor, lucky_share, odds_of, scaled_chance
from bstar_trl.selection import selectable_mask


def test_expected_lucky_by_hand():
    rewards = np.array([[1.2, 0.4, -0.3, 0.1], [1.0, 0.0, 0.0, 0.0]])
    correct = np.array([[True, False, False, False], [True, False, False, False]])
    selectable = np.array([[True, True, True, False], [True, True, True, True]])
    # c = 1/5: odds 1/4. Had they been accepted, the wrong ones would have 1.4, 0.7 and (not selectable) 1.1.
    lucky = expected_lucky(rewards, correct, selectable, 0.5, chance=0.2)
    np.testing.assert_allclose(lucky, [2 / 4, 3 / 4])
    lucky = expected_lucky(rewards, correct, selectable, 0.8, chance=0.2)
    np.testing.assert_allclose(lucky, [1 / 4, 3 / 4])
    lucky = expected_lucky(rewards, correct, selectable, -math.inf, chance=[0.2, 0.5])
    np.testing.assert_allclose(lucky, [2 / 4, 3.0])
    # A step of half a point, as for a verifier of weight 1/2.
    lucky = expected_lucky(rewards, correct, selectable, 0.5, chance=0.2, step_if_correct=0.5)
    np.testing.assert_allclose(lucky, [1 / 4, 0.0])
    assert lucky_share(rewards, correct, selectable, 0.5, chance=0.2) == pytest.approx((0.5 + 0.75) / 2)


def test_share_stays_between_0_and_1():
    correct = np.array([[True, False, False, False, False]])
    everything = np.ones_like(correct)
    rewards = correct.astype(float)
    assert lucky_share(rewards, correct, everything, 0.5, chance=0.5) == 1.0
    assert lucky_share(rewards, np.zeros_like(correct), everything, 0.5, chance=0.5) == 0.0
    assert lucky_share(rewards, correct, everything, 0.5, chance=0.0) == 0.0


@pytest.mark.parametrize("chance", [-0.1, 1.0, math.nan, [0.1, 0.2]])
def test_impossible_chances_are_refused(chance):
    with pytest.raises(ConfigurationError, match="chance must be"):
        odds_of(chance, 3)


def test_learned_factor_by_hand():
    # 6 wrong and 4 correct responses; c = 1/10, so 6/9 are lucky, a sixth of 4.
    correct = np.array([[True] * 4 + [False] * 6])
    everything = np.ones_like(correct)
    assert learned_factor(0.1, correct, everything, trained_share=None) == 1.0
    factor = learned_factor(0.1, correct, everything, trained_share=0.3)
    wanted = (1 / 6 + 0.3) / 2
    chance = scaled_chance(0.1, factor)
    assert lucky_share(correct.astype(float), correct, everything, 0.5, chance=float(chance)) == pytest.approx(wanted)
    assert learned_factor(0.0, correct, everything, trained_share=0.3) == 1.0  # nobody is lucky
    assert learned_factor(0.1, ~everything, everything, trained_share=0.3) == 1.0  # nobody is right
    np.testing.assert_allclose(scaled_chance([0.0, 0.1, 0.25, 0.5], 3.0), [0.0, 0.25, 0.5, 0.5])


def test_learned_factor_stays_in_reason():
    """A policy guesses at chance at least; and one wrong response among many does not say that all are lucky."""
    correct = np.array([[True] * 5 + [False] * 5])
    everything = np.ones_like(correct)
    assert learned_factor(0.4, correct, everything, trained_share=0.1) == 1.0  # plain chance: 2/3
    correct = np.array([[True] * 99 + [False]])
    everything = np.ones_like(correct)
    factor = learned_factor(0.1, correct, everything, trained_share=0.3)
    assert factor > 100
    np.testing.assert_allclose(scaled_chance([0.1, 0.0, 0.6], factor), [0.5, 0.0, 0.6])  # each chance by itself


def test_pure_guesser_scores_little():
    """The clip at 0 is biased upward, within bounds: c = 1/4 and n* = 4 with 4 and with 16 distinct responses."""
    rng = np.random.default_rng(0)
    for size, corrected_bound, paper in ((4, 0.09, 0.25), (16, 0.12, 0.83)):
        correct = rng.random((40_000, size)) < 0.25
        scores = {
            chance: mean_balance_score(correct.astype(float), correct, 4, 0.5, chance=chance) for chance in (0, 0.25)
        }
        assert scores[0] == pytest.approx(paper, abs=0.01)
        assert 0 < scores[0.25] < corrected_bound


def test_a_reasoner_keeps_its_score():
    """Where the chance is right, the corrected count is that of the valid responses in the mean."""
    rng = np.random.default_rng(1)
    valid = rng.random((20_000, 16)) < 0.4
    lucky = ~valid & (rng.random(valid.shape) < 0.2)
    correct = valid | lucky
    everything = np.ones_like(correct)
    expected = expected_lucky(correct.astype(float), correct, everything, 0.5, chance=0.2)
    assert expected.mean() == pytest.approx(lucky.sum(axis=1).mean(), rel=0.01)
    assert lucky_share(correct.astype(float), correct, everything, 0.5, chance=0.2) == pytest.approx(
        lucky.sum() / correct.sum(), rel=0.01
    )


def test_stopping_on_the_outcome_does_not_bias_luck():
    """Queries that leave after 4 correct responses: lucky ones per wrong one stay at c / (1 - c)."""
    rng = np.random.default_rng(2)
    num_lucky, num_wrong = 0, 0
    for _ in range(20_000):
        right = 0
        for _ in range(4):
            valid = rng.random(4) < 0.3
            lucky = ~valid & (rng.random(4) < 0.25)
            right += int((valid | lucky).sum())
            num_lucky += int(lucky.sum())
            num_wrong += int((~valid & ~lucky).sum())
            if right >= 4:
                break
    assert num_lucky / num_wrong == pytest.approx(1 / 3, rel=0.02)


def test_luck_pulls_the_search_away_from_guessing():
    """Half the queries are guessed at, half are reasoned about; a scorer tells the two apart a little."""
    rng = np.random.default_rng(3)
    valid = rng.random((400, 16)) < np.where(np.arange(400) % 2, 0.6, 0.0)[:, None]
    correct = valid | (rng.random(valid.shape) < 0.2)
    rewards = correct + np.where(valid, 0.3, -0.3) + rng.normal(0, 0.2, valid.shape)
    plain, _ = best_threshold(rewards, correct, 4)
    corrected, _ = best_threshold(rewards, correct, 4, chance=0.2)

    def share_of_valid(threshold):
        return valid[rewards > threshold].mean()

    assert share_of_valid(corrected) > share_of_valid(plain) + 0.02


@pytest.mark.parametrize("pooled", [True, False])
def test_estimated_share_on_recordings(record_property, pooled):
    """Answers alone, four stages of one training, 11 temperatures: error and bias of the estimate.

    Pooled: the factor comes from all temperatures together, as from a run's slices, and the last selection was sampled
    at one of them (0.8). Else each temperature goes by its own last share.
    """
    folder = skip_without(SHARED / "replay_big")
    errors = []
    previous = None
    for stage in range(4):
        data = np.load(folder / f"big_stage{stage}.npz")
        chance = float(data["other_gold"].mean())
        shares, truths = [], []
        selectable = np.stack([selectable_mask(ids, np.ones(ids.shape, dtype=bool)) for ids in data["solution_id"]])
        for place, (correct, valid, may) in enumerate(zip(data["correct"], data["valid"], selectable, strict=True)):
            seen, allowed = (np.concatenate(data["correct"]), np.concatenate(selectable)) if pooled else (correct, may)
            trained = None if previous is None else previous[4 if pooled else place]
            factor = learned_factor(chance, seen, allowed, trained_share=trained)
            learned = float(scaled_chance(chance, factor))
            shares.append(lucky_share(correct.astype(float), correct, may, 0.5, chance=learned))
            truths.append((may & correct & ~valid).sum() / (may & correct).sum())
        previous = shares
        difference = np.array(shares) - np.array(truths)
        record_property(f"stage {stage}", f"error {np.abs(difference).mean():.3f}, bias {difference.mean():+.3f}")
        errors.append(float(np.abs(difference).mean()))
    assert max(errors[:2]) <= 0.05
    assert errors[2] < 0.080  # plain chance's errors
    assert errors[3] < 0.163
