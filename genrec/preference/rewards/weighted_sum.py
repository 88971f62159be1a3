"""A weighted sum of rewards."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genrec.errors import UsageError
from genrec.preference.rewards.reward_tables import checked_rating, mask_padding
from genrec.types import Rating, Reward, SamplerContext, SequenceBatch


@dataclass(frozen=True)
class WeightedSum:
    """`sum of weights[i] * rewards[i]`, computed in float32, for example `WeightedSum((Hit(), Novelty()), (1.0, 0.01))`."""

    rewards: tuple[Reward, ...]  # at least one
    weights: tuple[float, ...] = ()  # finite, one for each reward; empty: 1 for each

    def __post_init__(self) -> None:
        valid = isinstance(self.rewards, tuple) and all(isinstance(each, Reward) for each in self.rewards)
        if not valid or not self.rewards or any(isinstance(each, type) for each in self.rewards):
            raise UsageError(f"WeightedSum.rewards must be a tuple of rewards, such as (Hit(), RankPenalty()), got {self.rewards!r}")
        numbers = isinstance(self.weights, tuple) and all(
            isinstance(each, int | float) and not isinstance(each, bool) and abs(each) < float("inf") for each in self.weights
        )
        if not numbers or len(self.weights) not in (0, len(self.rewards)):
            raise UsageError(
                f"WeightedSum.weights must hold a finite number for each of the {len(self.rewards)} rewards, or nothing for equal "
                f"weights of 1, got {self.weights!r}"
            )

    def rate(self, context: SamplerContext) -> Rating:
        """Return the rating for one training set. It reads the policy or compares candidates if one of the rewards does."""
        ratings = [checked_rating(reward, context) for reward in self.rewards]
        weights = self.weights or (1.0,) * len(ratings)

        def rate_items(batch: SequenceBatch, items: Tensor) -> Tensor:
            padding, total = items == 0, torch.zeros(items.shape, dtype=torch.float32, device=items.device)
            for weight, rating in zip(weights, ratings, strict=True):
                # Without item 0, which has -inf: 0 times infinity is NaN.
                total = total + weight * rating.rate(batch, items).to(items.device, torch.float32).masked_fill(padding, 0.0)
            return mask_padding(total, items)

        reads_policy, compares = (any(getattr(rating, name) for rating in ratings) for name in ("reads_policy", "compares"))
        return Rating(rate=rate_items, reads_policy=reads_policy, compares=compares)
