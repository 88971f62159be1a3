"""Leaves of the trie as items: what stands between beams, which are Semantic IDs, and lists, which are of items.

In: the leaves that a beam search found, and the items that a user must not get. Out: a `Ranking`. A leaf that several items share
stands for all of them, each with the leaf's score; a slot of a list names one item. No Python per beam, none per user.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from genrec.model.generation import Beams
from genrec.types import Ranking


class LeafItems(NamedTuple):
    """The items of every leaf."""

    start: Tensor  # int64 [leaves + 1]  the items of leaf i are items[start[i]:start[i+1]]
    items: Tensor  # int64 [N]  ascending within a leaf
    largest: int  # the most items of one leaf; 1 where no Semantic ID is shared


class Allowed(NamedTuple):
    """What is left of every leaf when a user's excluded items are taken out."""

    forbidden: Tensor  # bool [B, leaves]  leaves with no item left
    before: Tensor | None  # int32 [B, N + 1]  allowed items among the first ones of `LeafItems.items`; None where no leaf is shared


def allow(leaves: LeafItems, exclude: Tensor | None) -> Allowed | None:
    """Excluded items int64 [B, E], 0 = none -> what is left; None where nothing is excluded."""
    if exclude is None:
        return None
    excluded = torch.zeros(exclude.shape[0], len(leaves.items) + 1, dtype=torch.bool, device=exclude.device)
    excluded = excluded.scatter_(1, exclude, True)[:, leaves.items]
    if leaves.largest == 1:
        return Allowed(excluded, None)
    before = pad((~excluded).cumsum(1, dtype=torch.int32), (1, 0))
    return Allowed(before[:, leaves.start].diff(dim=1) == 0, before)


def rank_items(beams: Beams, leaves: LeafItems, allowed: Allowed | None, n: int) -> Ranking:
    """The `n` best items of the beams: by score, equal scores (of one leaf's items, too) by item id."""
    if leaves.largest == 1:
        return _ranking(leaves.items[beams.leaf], beams.score, n)
    return _ranking(*_expanded(beams, leaves, None if allowed is None else allowed.before, n), n)


def _expanded(beams: Beams, leaves: LeafItems, before: Tensor | None, n: int) -> tuple[Tensor, Tensor]:
    """Beams -> items int64 [B, W x G] and their scores, -inf where there is none.

    G is the largest leaf's size, at most `n`: among items of one score the lowest ids come first, so that a list of `n` never needs
    more of a leaf than its first `n` allowed ones.
    """
    start, end = leaves.start[beams.leaf], leaves.start[beams.leaf + 1]
    step = torch.arange(min(n, leaves.largest), device=start.device)
    if before is None:
        place, count = start.unsqueeze(-1) + step, end - start
    else:
        first = before.gather(1, start)
        count = before.gather(1, end) - first
        wanted = (first.unsqueeze(-1) + step + 1).int()  # the k-th allowed item is where the count of allowed ones reaches k
        place = torch.searchsorted(before[:, 1:].contiguous(), wanted.flatten(1)).view(wanted.shape)
    items = leaves.items[place.clamp(max=len(leaves.items) - 1)]
    scores = beams.score.unsqueeze(-1).masked_fill(step >= count.unsqueeze(-1), -torch.inf)
    return items.flatten(1), scores.flatten(1)


def _ranking(items: Tensor, scores: Tensor, n: int) -> Ranking:
    """Items in any order -> the best `n`: by score, equal scores by item id; 0 and -inf where there are fewer."""
    order = items.argsort(1)
    order = order.gather(1, scores.gather(1, order).argsort(dim=1, descending=True, stable=True))[:, :n]
    items, scores = items.gather(1, order), scores.gather(1, order)
    items = items.masked_fill(scores == -torch.inf, 0)
    missing = n - items.shape[1]
    if missing > 0:
        items = pad(items, (0, missing))
        scores = pad(scores, (0, missing), value=-torch.inf)
    return Ranking(items, scores)
