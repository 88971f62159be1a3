"""Rewards: ratings of items for a user by measures that need no training.

`Preference.reward`, policy-gradient objectives and the sampler `BestOf` take a reward. It maps a batch and items int64 [B, M] to
float32 [B, M] on the items' device, detached, with -inf for item 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from genrec.errors import InputError
from genrec.plugin_source import name_with_place
from genrec.preference.range_checks import check_range
from genrec.preference.rating_requirements import check_has_ratings
from genrec.types import Rating, Reward, SamplerContext, SequenceBatch

if TYPE_CHECKING:
    pass

DAY = 86_400.0  # seconds


@dataclass(frozen=True)
class LogProbability:
    """`log p(item | history)` under the frozen policy of the context; below 0."""

    def needs_policy(self) -> bool:
        """Return True: the rating reads the policy."""
        return True

    def rate(self, context: SamplerContext) -> Rating:
        """Return the rating for one training set."""
        policy = context.policy
        if policy is None:
            raise InputError("LogProbability needs a policy, got a context without one: use it in alignment, which has the SFT policy")

        @torch.no_grad()
        def rate_items(batch: SequenceBatch, items: Tensor) -> Tensor:
            device = next(policy.parameters()).device if isinstance(policy, nn.Module) else items.device
            return _mask_padding(policy.log_prob(batch.history.to(device), items.to(device)), items)

        return Rating(rate=rate_items, reads_policy=True)


@dataclass(frozen=True)
class Similarity:
    """Cosine similarity of an item's vector and the mean of the history's vectors, in [-1, 1]; 0 where either is zeros."""

    def rate(self, context: SamplerContext) -> Rating:
        """Return the rating for one training set."""
        vectors = context.vectors

        def rate_items(batch: SequenceBatch, items: Tensor) -> Tensor:
            history = batch.history.to(vectors.device)
            total = (vectors[history] * (history > 0).unsqueeze(2)).sum(1)  # the sum has the direction of the mean
            candidates = normalize(vectors[items.to(vectors.device)], dim=2)
            return _mask_padding(torch.einsum("bd,bmd->bm", normalize(total, dim=1), candidates), items)

        return Rating(rate=rate_items)


@dataclass(frozen=True)
class RatingRecency:
    """The user's rating of an item, discounted by the delay: `phi = rating / (1 + days)^decay`, for `RecPO` (arXiv 2506.02261).

    `days` is the time between the last event of the history and the user's last event of the item. An item that the user did not
    rate in training has phi = `default`. The paper requires phi to grow with the rating and to fall with the delay; this form, which
    stays above 0, is ours.
    """

    default: float = 1.0  # phi of an item that the user did not rate, on the scale of the ratings, above 0
    decay: float = 0.5  # exponent of the delay, 0 or more; 0 ignores the delay

    def __post_init__(self) -> None:
        check_range(self, "default", 0, above=True)
        check_range(self, "decay", 0)

    def check(self, experiment: Any) -> None:
        """Raise UsageError if the source is known to have no ratings."""
        check_has_ratings(self, experiment)

    def check_context(self, context: SamplerContext) -> None:
        """Raise InputError if there are no ratings."""
        if "rating" not in context.interactions:
            raise InputError(
                f"RatingRecency needs ratings, got training interactions with the columns "
                f"{', '.join(map(str, context.interactions.columns))}: use a source with ratings, or another reward such as Popular()"
            )

    def rate(self, context: SamplerContext) -> Rating:
        """Return the rating for one training set."""
        self.check_context(context)
        events = _LastEvents(context)

        def rate_items(batch: SequenceBatch, items: Tensor) -> Tensor:
            user = batch.user.cpu().unsqueeze(1)
            seconds, rating, known = events.find(user, items.cpu())
            last_seconds, _, last_known = events.find(user, batch.history[:, -1:].cpu())
            days = torch.where(last_known, (seconds - last_seconds).abs() / DAY, 0.0)
            phi = torch.where(known & rating.isfinite(), rating * (1 + days) ** -self.decay, self.default)
            return _mask_padding(phi.float(), items)

        return Rating(rate=rate_items)


@dataclass(frozen=True)
class Popular:
    """`(1 + training events)^alpha`, the same for every user: above 0, and 1 for an item without events."""

    alpha: float = 1.0  # finite; above 0 popular items are better, below 0 rare items

    def __post_init__(self) -> None:
        check_range(self, "alpha")

    def rate(self, context: SamplerContext) -> Rating:
        """Return the rating for one training set."""
        table = ((1.0 + context.popularity.double()) ** self.alpha).float()

        def rate_items(batch: SequenceBatch, items: Tensor) -> Tensor:
            return _mask_padding(table[items.to(table.device)], items)

        return Rating(rate=rate_items)


def checked_rating(reward: Reward, context: SamplerContext) -> Rating:
    """Return a reward's rating. Its function raises InputError if the reward does not return float [B, M].

    Values are not checked, because reading them would make the CPU wait for the GPU.
    """
    name, rating = name_with_place(type(reward)), reward.rate(context)
    if not isinstance(rating, Rating):
        raise InputError(f"{name}: rate(context) must return a genrec.types.Rating, got {rating!r}; return Rating(rate=...)")

    def checked(batch: SequenceBatch, items: Tensor) -> Tensor:
        rewards = rating.rate(batch, items)
        if not isinstance(rewards, Tensor) or rewards.shape != items.shape or not rewards.is_floating_point():
            got = f"{rewards.dtype} {list(rewards.shape)}" if isinstance(rewards, Tensor) else type(rewards).__name__
            raise InputError(f"{name}: must return float32 {list(items.shape)}, one reward per item; got {got}")
        return rewards

    return replace(rating, rate=checked)


class _LastEvents:
    """The last training event of every (user, item) pair, found by bisection."""

    def __init__(self, context: SamplerContext) -> None:
        table = context.interactions
        table = table.sort_values(["user", "item", "time"], kind="stable").drop_duplicates(["user", "item"], keep="last")
        user, item, time = (torch.from_numpy(table[name].to_numpy("int64", copy=True)) for name in ("user", "item", "time"))
        self.width = context.item_count + 1
        self.keys = user * self.width + item  # int64 [E]  sorted
        self.time = time.double()
        self.rating = torch.from_numpy(table["rating"].to_numpy("float64", copy=True))

    def find(self, user: Tensor, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return time in seconds and rating, float64 [B, M], and whether there is an event, bool [B, M].

        `user` is int64 [B, 1] and `items` int64 [B, M].
        """
        wanted = user * self.width + items
        place = torch.searchsorted(self.keys, wanted).clamp(max=len(self.keys) - 1)
        return self.time[place], self.rating[place], (self.keys[place] == wanted) & (items > 0)


def _mask_padding(rewards: Tensor, items: Tensor) -> Tensor:
    """Return the rewards on the items' device, with -inf for item 0."""
    return rewards.to(items.device).masked_fill(items == 0, -torch.inf)
