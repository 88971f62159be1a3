"""Rewards that compare a candidate with the logged next item (`batch.target`) by Semantic IDs, for groups of candidates.

With the logged item as the only good one, they say nothing that the likelihood does not know; they decide which wrong candidates
lose most. Items that share a Semantic ID are one candidate to the policy, so they get one reward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genrec.errors import UsageError
from genrec.preference.exclusions import representatives
from genrec.preference.level_checks import check_has_levels
from genrec.preference.rewards.reward_tables import DeviceTable, mask_padding
from genrec.types import Rating, SamplerContext, SequenceBatch


@dataclass(frozen=True)
class Hit:
    """The rule reward: 1 for a candidate with the Semantic ID of the logged item, else 0 (MiniOneRec, arXiv 2510.24431)."""

    def rate(self, context: SamplerContext) -> Rating:
        """Return the rating for one training set."""
        hits = _Hits(context)
        return Rating(rate=lambda batch, items: mask_padding(hits.find(batch, items).float(), items))


@dataclass(frozen=True)
class RankPenalty:
    """The rank reward of MiniOneRec (arXiv 2510.24431) and ReRe: 0 for a hit, else -w_i by the place i of the candidate in its row.

    `w_i = (1 / log2(i + 2)) / sum over the row of 1 / log2(j + 2)`, with places counted from 0, best first: a miss that the policy
    prefers loses most. In a row without a hit all rewards are 0. A hit has the Semantic ID of the logged item. Item 0 takes no
    place. `WeightedSum((Hit(), RankPenalty()))` is the ranking reward of the paper.
    """

    def rate(self, context: SamplerContext) -> Rating:
        """Return the rating for one training set."""
        hits = _Hits(context)

        def rate_items(batch: SequenceBatch, items: Tensor) -> Tensor:
            hit = hits.find(batch, items)
            penalty = rank_weights(items > 0).masked_fill(hit | ~hit.any(1, keepdim=True), 0.0)
            return mask_padding(-penalty.float(), items)

        return Rating(rate=rate_items, compares=True)


@dataclass(frozen=True)
class PrefixMatch:
    """A reward by the length of the prefix that the Semantic IDs of candidate and logged item share: `length / L`, or `values`.

    SINGER rewards length / L; ReCast (arXiv 2604.22169) values=(0, 0.01, 0.1, 1) for L = 3.
    """

    values: tuple[float, ...] = ()  # reward of a shared prefix of 0, 1, ..., L codes; empty: length / L

    def __post_init__(self) -> None:
        if not isinstance(self.values, tuple) or not all(_is_finite(value) for value in self.values):
            raise UsageError(f"PrefixMatch.values must be a tuple of finite numbers, such as (0, 0.01, 0.1, 1), got {self.values!r}")

    def check(self, experiment: Any) -> None:
        """Raise UsageError if the policy scores an item as one code: no prefix of its Semantic ID is a decision of the policy."""
        check_has_levels(self, "a policy that writes an item code by code", experiment, "Hit()")

    def check_context(self, context: SamplerContext) -> None:
        """Raise UsageError unless there is a value for each length of a prefix."""
        levels = context.semantic_ids.levels
        if self.values and len(self.values) != levels + 1:
            raise UsageError(
                f"PrefixMatch.values needs {levels + 1} numbers, for a shared prefix of 0 to {levels} codes of Semantic IDs with "
                f"{levels} levels, got {len(self.values)}: {self.values!r}"
            )

    def rate(self, context: SamplerContext) -> Rating:
        """Return the rating for one training set."""
        self.check_context(context)
        levels = context.semantic_ids.levels
        values = self.values or tuple(length / levels for length in range(levels + 1))
        table = DeviceTable(torch.tensor(values, dtype=torch.float32))
        codes = DeviceTable(torch.cat([torch.full((1, levels), -1), context.semantic_ids.codes]))  # int64 [N + 1, L]

        def rate_items(batch: SequenceBatch, items: Tensor) -> Tensor:
            by_item = codes.on(items.device)
            same = by_item[items] == by_item[batch.target.to(items.device)].unsqueeze(1)
            return mask_padding(table.on(items.device)[same.cumprod(2).sum(2)], items)

        return Rating(rate=rate_items)


def rank_weights(valid: Tensor) -> Tensor:
    """Return `w_i`, float64 [B, M], which is 1 / log2(i + 2) over its sum, by the place i among the valid candidates bool [B, M].

    Places that are not valid have weight 0.
    """
    place = (valid.cumsum(1) - 1).clamp(min=0)
    weight = (1 / (place + 2).double().log2()).masked_fill(~valid, 0.0)
    return weight / weight.sum(1, keepdim=True).clamp(min=1.0)  # the first weight is 1; a row without candidates has none


class _Hits:
    """Finds candidates with the Semantic ID of the logged item."""

    def __init__(self, context: SamplerContext) -> None:
        self.number = DeviceTable(representatives(context))  # int64 [N + 1]  equal for equal Semantic IDs

    def find(self, batch: SequenceBatch, items: Tensor) -> Tensor:
        """Return where items int64 [B, M] are hits: bool [B, M]."""
        number = self.number.on(items.device)
        return (number[items] == number[batch.target.to(items.device)].unsqueeze(1)) & (items > 0)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
