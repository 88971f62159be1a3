"""Stage 5, rewards: how good an item is for a user, by measures that need no training. Losses ask for them (RosePO, RecPO).

In: a `SamplerContext` once, then a batch and items int64 [B, M]. Out: float32 [B, M] on the batch's device, detached, -inf for item 0.
Tables are read where the context has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from genrec.errors import InputError
from genrec.preference.range_checks import check_range
from genrec.types import SamplerContext, SequenceBatch

if TYPE_CHECKING:
    from genrec.types.preference import Rates

DAY = 86_400.0  # seconds


@dataclass(frozen=True)
class LogProbability:
    """`log p(item | history)` under the context's frozen policy: below 0."""

    reads_policy: ClassVar[bool] = True

    def rate(self, context: SamplerContext) -> Rates:
        """What rates items."""
        policy = context.policy
        if policy is None:
            raise InputError("LogProbability rates by the policy, and the context has none: it is there in alignment, after SFT")

        @torch.no_grad()
        def rates(batch: SequenceBatch, items: Tensor) -> Tensor:
            device = next(policy.parameters()).device if isinstance(policy, nn.Module) else items.device
            return _real(policy.log_prob(batch.history.to(device), items.to(device)), items)

        return rates


@dataclass(frozen=True)
class Similarity:
    """The cosine of an item's vector with the mean of the history's vectors, in [-1, 1]; 0 where either is zeros."""

    def rate(self, context: SamplerContext) -> Rates:
        """What rates items."""
        vectors = context.vectors

        def rates(batch: SequenceBatch, items: Tensor) -> Tensor:
            history = batch.history.to(vectors.device)
            taken = (vectors[history] * (history > 0).unsqueeze(2)).sum(1)  # the sum has the mean's direction
            candidates = normalize(vectors[items.to(vectors.device)], dim=2)
            return _real(torch.einsum("bd,bmd->bm", normalize(taken, dim=1), candidates), items)

        return rates


@dataclass(frozen=True)
class RatingRecency:
    """The user's own rating, the less the longer the wait: `phi = rating / (1 + days)^decay`, for `RecPO` (2506.02261).

    `days` lie between the user's last event of the history and the event of the item, the later event where an item was taken twice.
    An item without a rating of the user's in training has `default`. The paper asks that phi grow with the rating and fall with the
    delay; this form of it, which stays above 0, is ours.
    """

    default: float = 1.0  # phi of an item that the user never rated, on the scale of the ratings, above 0
    decay: float = 0.5  # power of the delay, 0 or more; 0 leaves the rating alone

    def __post_init__(self) -> None:
        check_range(self, "default", 0, above=True)
        check_range(self, "decay", 0)

    def rate(self, context: SamplerContext) -> Rates:
        """What rates items."""
        events = _Events(context)

        def rates(batch: SequenceBatch, items: Tensor) -> Tensor:
            user = batch.user.cpu().unsqueeze(1)
            seconds, rating, known = events.find(user, items.cpu())
            began, _, some = events.find(user, batch.history[:, -1:].cpu())
            days = torch.where(some, (seconds - began).abs() / DAY, 0.0)
            phi = torch.where(known & rating.isfinite(), rating * (1 + days) ** -self.decay, self.default)
            return _real(phi.float(), items)

        return rates


@dataclass(frozen=True)
class Popular:
    """`(1 + training events)^alpha`, the same for every user: above 0, and 1 for an item without events."""

    alpha: float = 1.0  # finite; above 0 the popular are better, below 0 the rare

    def __post_init__(self) -> None:
        check_range(self, "alpha")

    def rate(self, context: SamplerContext) -> Rates:
        """What rates items."""
        table = ((1.0 + context.popularity.double()) ** self.alpha).float()

        def rates(batch: SequenceBatch, items: Tensor) -> Tensor:
            return _real(table[items.to(table.device)], items)

        return rates


class _Events:
    """The last training event of every user and item, found by bisection."""

    def __init__(self, context: SamplerContext) -> None:
        table = context.interactions
        if "rating" not in table:
            raise InputError(
                f"RatingRecency needs ratings, and the training interactions have only {', '.join(map(str, table.columns))}: take a "
                "source with ratings, or another reward such as Popular()"
            )
        table = table.sort_values(["user", "item", "time"], kind="stable").drop_duplicates(["user", "item"], keep="last")
        user, item, time = (torch.from_numpy(table[name].to_numpy("int64", copy=True)) for name in ("user", "item", "time"))
        self.width = context.item_count + 1
        self.keys = user * self.width + item  # int64 [E]  sorted
        self.time = time.double()
        self.rating = torch.from_numpy(table["rating"].to_numpy("float64", copy=True))

    def find(self, user: Tensor, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Users int64 [B, 1], items int64 [B, M] -> seconds and rating float64 [B, M], and whether there is an event, bool [B, M]."""
        wanted = user * self.width + items
        place = torch.searchsorted(self.keys, wanted).clamp(max=len(self.keys) - 1)
        return self.time[place], self.rating[place], (self.keys[place] == wanted) & (items > 0)


def _real(rewards: Tensor, items: Tensor) -> Tensor:
    """-inf for item 0, on the items' device."""
    return rewards.to(items.device).masked_fill(items == 0, -torch.inf)
