"""The choice of the preferred candidate of each row by a reward."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec.preference.disliked_pairs import DislikedPairs
from genrec.preference.exclusions import representatives
from genrec.types import Candidates, SamplerContext, SequenceBatch


class Dislikes:
    """The candidates that a user dislikes by the labels of training. The logged item of a row is never one of them."""

    def __init__(self, context: SamplerContext) -> None:
        self._pairs = DislikedPairs(context, representatives(context)) if "label" in context.interactions else None

    def among(self, rows: SequenceBatch, items: Tensor) -> Tensor | None:
        """Return whether the users of rows dislike items int64 [X, M], on their device: bool [X, M]; None without labels."""
        if self._pairs is None:
            return None
        return self._pairs.contains(rows.user, items) & (items != rows.target.unsqueeze(1))


def best_first(
    candidates: Candidates, rewards: Tensor, min_gap: float, disliked: Tensor | None = None, target: Tensor | None = None
) -> tuple[Candidates, Tensor]:
    """Return the candidates with the preferred one first and the others by falling reward, and their rewards float32 [X, M].

    The candidate with the highest reward is preferred; equal rewards keep their order. A candidate is masked unless its reward is
    lower by more than `min_gap`. Rows without such a candidate, which compare nothing, take no part.

    With `disliked`, bool [X, M], none of these candidates is preferred. A row with no other candidate takes no part, and has its
    logged item of `target` int64 [X] alone, for the likelihood.
    """
    rewards = rewards.masked_fill(~candidates.mask, -torch.inf)
    if disliked is None:
        ordered, order = rewards.sort(dim=1, descending=True, stable=True)
    else:
        allowed = candidates.mask & ~disliked
        best = rewards.masked_fill(~allowed, -torch.inf).sort(dim=1, descending=True, stable=True).indices[:, :1]
        order = rewards.scatter(1, best, torch.inf).sort(dim=1, descending=True, stable=True).indices
        ordered = rewards.gather(1, order)
    items, taken = candidates.items.gather(1, order), candidates.mask.gather(1, order)
    mask = taken & (ordered < ordered[:, :1] - min_gap)
    counted = mask.any(1)
    mask[:, 0] = taken[:, 0]
    if disliked is not None and target is not None:
        none_allowed = ~allowed.any(1) & candidates.mask.any(1)
        items[:, 0] = torch.where(none_allowed, target, items[:, 0])
        mask[:, 1:] &= ~none_allowed.unsqueeze(1)
        mask[:, 0] |= none_allowed
        counted = counted & ~none_allowed
    counted = counted if candidates.rows is None else counted & candidates.rows
    return candidates._replace(items=items, mask=mask, rows=counted), ordered
