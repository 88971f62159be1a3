"""Rewards: judges of candidates. They rate items for a user, from data, Semantic IDs or another recommender, without training.

`Preference.reward`, policy-gradient objectives and the sampler `BestOf` take a reward. `rate(context)` returns a `Rating`; its
function maps a batch and items int64 [B, M] to float32 [B, M] on the items' device, detached. Item 0 is an empty place and
gets -inf.

- The logged item: `Hit`, `PrefixMatch`, `RankPenalty`.
- The user's ratings: `Rated`, `RatingRecency`, `StepDiscountedRating`.
- The item alone: `Popular`, `Novelty`. The item and the history: `Similarity`.
- A model: `LogProbability` (the reference), `BaselineScore` (a baseline fitted on the training events), `PolicyScore` (another
  row's trained policy).
- Several of them: `WeightedSum`.

Rewards that are trained on preferences are in `genrec.preference.reward_models`.
"""

from genrec.preference.rewards.baseline_score import BaselineScore
from genrec.preference.rewards.catalog_rewards import LogProbability, Novelty, Popular, Similarity
from genrec.preference.rewards.logged_item_rewards import Hit, PrefixMatch, RankPenalty
from genrec.preference.rewards.policy_score import PolicyScore
from genrec.preference.rewards.rated_rewards import Rated, RatingRecency, StepDiscountedRating
from genrec.preference.rewards.reward_tables import checked_rating
from genrec.preference.rewards.weighted_sum import WeightedSum

__all__ = [
    "BaselineScore",
    "Hit",
    "LogProbability",
    "Novelty",
    "PolicyScore",
    "Popular",
    "PrefixMatch",
    "RankPenalty",
    "Rated",
    "RatingRecency",
    "Similarity",
    "StepDiscountedRating",
    "WeightedSum",
    "checked_rating",
]
