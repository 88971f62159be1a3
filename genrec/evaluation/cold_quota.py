"""Lists in which cold items (without training interactions) have at most a share of the places, as in TIGER.

The decoder has never written the last code of a cold item after its prefix, so its log-probability says little. A cold item that
shares its first L - 1 codes with one of the n best items is therefore scored by the log-probability of these codes alone. The list
holds the best by score of the other items and of at most floor(share * n) such cold items.

Source: Rajput et al. 2023, arXiv 2305.05065, section on cold-start recommendation. The paper names the quota and the condition on the
prefix; the score of a cold item is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any, cast

import torch
from torch import Tensor, nn

from genrec.errors import UsageError
from genrec.item_rows import contains, keys, ranking
from genrec.semantic_ids import SemanticIds, row_keys
from genrec.types import (
    Baseline,
    ExactRecommender,
    Policy,
    Ranking,
    Recommender,
    VectorSpecification,
    WholeItemSpecification,
)

Search = Callable[[Tensor, int, Tensor | None], Ranking]  # histories, number of items, items to exclude -> lists


def places_for_cold(share: float, n: int) -> int:
    """Return floor(share * n) of the decimal that `share` is written as: 0.29 of 100 places are 29."""
    return int(Fraction(str(share)) * n)


def check_cold_quota(share: float | None, experiment: Any) -> None:
    """Raise UsageError for a share outside 0 to 1, and for a policy without levels or with a ranking of cold items of its own.

    Baselines do not read the quota.
    """
    if share is None:
        return
    if not 0 <= share <= 1:
        raise UsageError(f"evaluate.cold_quota must be a share from 0 to 1, or None, got {share}")
    policy = experiment.policy
    if isinstance(policy, Baseline):
        return
    if isinstance(policy, VectorSpecification):
        reason = "ranks cold items by their vectors already"
    elif isinstance(policy, WholeItemSpecification) and policy.scores_whole_items():
        reason = "scores an item as one code, so items share no prefix"
    elif experiment.tokenize is None:
        reason = "has no Semantic IDs with tokenize=None, so items share no prefix"
    else:
        return
    raise UsageError(f"{experiment.name}: evaluate.cold_quota {share} does not fit: {type(policy).__name__} {reason}; set it to None")


def limit_cold(ranked: Ranking, is_cold: Tensor, n: int, share: float) -> Ranking:
    """Return the first `n` items of lists [B, X], of cold items the first floor(share * n) only.

    `is_cold` is bool [N + 1]. Lists with fewer items end in item 0 with the score -inf.
    """
    cold = is_cold[ranked.items]
    kept = (ranked.items > 0) & (~cold | (cold.cumsum(1) <= places_for_cold(share, n)))
    order = (~kept).byte().argsort(dim=1, stable=True)[:, :n]
    kept = kept.gather(1, order)
    items = ranked.items.gather(1, order).masked_fill(~kept, 0)
    return Ranking(items, ranked.scores.gather(1, order).masked_fill(~kept, -torch.inf))


def with_cold_quota(
    recommender: Recommender, semantic_ids: SemanticIds, popularity: Tensor, share: float | None
) -> Recommender:  # fmt: skip
    """Return the recommender with a quota for cold items; without a share, the recommender itself.

    `popularity` int64 [N + 1] counts the training interactions of each item. Raises UsageError for shared Semantic IDs.
    """
    return recommender if share is None else ColdQuota(cast(Policy, recommender), semantic_ids, popularity, share)


class ColdQuota(nn.Module):
    """A policy over Semantic IDs of two or more levels with a quota for cold items; see the module. Its lists are never trained on."""

    def __init__(self, policy: Policy, semantic_ids: SemanticIds, popularity: Tensor, share: float) -> None:
        super().__init__()
        if semantic_ids.collided:
            raise UsageError(
                f"evaluate.cold_quota needs distinct Semantic IDs, but {semantic_ids.collided} items share theirs; set "
                "tokenize.collisions to append or reassign"
            )
        self.policy = cast(nn.Module, policy)
        self.share = share
        device = next(self.policy.parameters()).device
        is_cold = (popularity == 0).to(device)
        is_cold[0] = False
        prefix = torch.unique(row_keys(semantic_ids.codes[:, :-1]), return_inverse=True)[1] + 1
        self.register_buffer("is_cold", is_cold, persistent=False)  # bool [N + 1]
        self.register_buffer("prefix", torch.cat([torch.zeros(1, dtype=torch.int64), prefix]).to(device), persistent=False)
        self.register_buffer("cold", is_cold.nonzero().squeeze(1), persistent=False)  # int64 [C]

    @torch.no_grad()
    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """Return the `n` best items of histories int64 [B, T] by the policy's `recommend`, with the quota."""
        return self._ranked(cast(Policy, self.policy).recommend, history, n, exclude)

    @torch.no_grad()
    def recommend_exactly(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """Return the `n` best items by the policy's `recommend_exactly`, with the quota."""
        return self._ranked(cast(ExactRecommender, self.policy).recommend_exactly, history, n, exclude)

    def _ranked(self, search: Search, history: Tensor, n: int, exclude: Tensor | None) -> Ranking:
        cold = cast(Tensor, self.cold).expand(len(history), -1)
        known = search(history, n, cold.contiguous() if exclude is None else torch.cat([cold, exclude], 1))
        if places_for_cold(self.share, n) == 0 or cold.shape[1] == 0:
            return known
        scores = self._cold_scores(history, search(history, n, exclude).items, cold)
        if exclude is not None:
            scores = scores.masked_fill(contains(exclude, cold), -torch.inf)
        items, all_scores = torch.cat([known.items, cold], 1), torch.cat([known.scores, scores], 1)
        merged = ranking(keys(all_scores, items), items.shape[1], all_scores.isnan().any(1))
        return limit_cold(merged, cast(Tensor, self.is_cold), n, self.share)

    def _cold_scores(self, history: Tensor, listed: Tensor, cold: Tensor) -> Tensor:
        """Return log p(first L - 1 codes) of cold items int64 [B, C] that share them with an item of `listed` int64 [B, n], else -inf.

        The items that share a prefix have one score; float32 [B, C].
        """
        prefix = cast(Tensor, self.prefix)
        found, order = prefix[listed].sort(dim=1)
        scores = cast(Policy, self.policy).level_log_prob(history, listed)[..., :-1].sum(-1).gather(1, order)
        wanted = prefix[cold].contiguous()
        place = torch.searchsorted(found, wanted).clamp(max=found.shape[1] - 1)
        return scores.gather(1, place).masked_fill(found.gather(1, place) != wanted, -torch.inf)
