"""Rewards of the catalog's tables and of the reference: likelihood, similarity to the history, popularity, novelty."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from genrec.errors import InputError
from genrec.preference.range_checks import check_range
from genrec.preference.rewards.reward_tables import DeviceTable, mask_padding
from genrec.types import Rating, SamplerContext, SequenceBatch


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
            return mask_padding(policy.log_prob(batch.history.to(device), items.to(device)), items)

        return Rating(rate=rate_items, reads_policy=True)


@dataclass(frozen=True)
class Similarity:
    """Cosine similarity of an item's vector and the mean of the history's vectors, in [-1, 1]; 0 where either is zeros."""

    def rate(self, context: SamplerContext) -> Rating:
        """Return the rating for one training set."""
        table = DeviceTable(context.vectors)

        def rate_items(batch: SequenceBatch, items: Tensor) -> Tensor:
            vectors, history = table.on(items.device), batch.items.to(items.device)
            total = (vectors[history] * (history > 0).unsqueeze(2)).sum(1)  # the sum has the direction of the mean
            candidates = normalize(vectors[items], dim=2)
            return mask_padding(torch.einsum("bd,bmd->bm", normalize(total, dim=1), candidates), items)

        return Rating(rate=rate_items)


@dataclass(frozen=True)
class Popular:
    """`(1 + training events)^alpha`, the same for every user: above 0, and 1 for an item without events."""

    alpha: float = 1.0  # finite; above 0 popular items are better, below 0 rare items

    def __post_init__(self) -> None:
        check_range(self, "alpha")

    def rate(self, context: SamplerContext) -> Rating:
        """Return the rating for one training set."""
        return _table_rating(((1.0 + context.popularity.double()) ** self.alpha).float())


@dataclass(frozen=True)
class Novelty:
    """The self-information of an item in bits, `-log2(c / sum of all c)`, with c its training events; 0 or more.

    An item without events counts as an item with one. The mean over a list is the metric `novelty@n`, so this is a coverage term: it
    pays for items outside the popular head. It is meant as a small part of a `WeightedSum`.
    """

    def rate(self, context: SamplerContext) -> Rating:
        """Return the rating for one training set."""
        events = context.popularity
        return _table_rating(-(events.clamp(min=1).double() / events[1:].sum().clamp(min=1)).log2().float())


def _table_rating(table: Tensor) -> Rating:
    """Return the rating by a table float32 [N + 1]."""
    values = DeviceTable(table)
    return Rating(rate=lambda batch, items: mask_padding(values.on(items.device)[items], items))
