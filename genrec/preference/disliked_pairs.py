"""The (user, item) pairs of training in which the user dislikes the item."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec.preference.exclusions import UserItemPairs
from genrec.types import SamplerContext
from genrec.types.data import DISLIKED


def disliked_events(context: SamplerContext, representative: Tensor) -> tuple[Tensor, Tensor]:
    """Return users and items, int64 [P] each, sorted by user and item, of the items that the users dislike in training.

    The last event of a user with an item counts. An item is left out if it shares a Semantic ID with a training item that the user
    does not dislike, since the policy cannot tell the two apart. Without labels there is no pair. `representative` is int64 [N + 1],
    see `genrec.preference.exclusions.Exclusions`.
    """
    table = context.interactions
    if "label" not in table:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    last = table.sort_values("time", kind="stable").drop_duplicates(["user", "item"], keep="last").sort_values(["user", "item"])
    user, item = (torch.from_numpy(last[name].to_numpy("int64", copy=True)) for name in ("user", "item"))
    disliked = torch.from_numpy((last["label"] == DISLIKED).to_numpy(copy=True))
    other = UserItemPairs(user[~disliked], representative[item[~disliked]], context.item_count)
    chosen = disliked & ~other.contains(user, representative[item])
    return user[chosen], item[chosen]


class DislikedPairs:
    """A set of (user, item) pairs in which the user dislikes the item in training."""

    def __init__(self, context: SamplerContext, representative: Tensor) -> None:
        self._pairs = UserItemPairs(*disliked_events(context, representative), context.item_count)

    def contains(self, user: Tensor, items: Tensor) -> Tensor:
        """Return whether users int64 [B] dislike items int64 [B, M], on their device: bool [B, M]."""
        self._pairs.follow(items.device)
        return self._pairs.contains(user.unsqueeze(1), items)
