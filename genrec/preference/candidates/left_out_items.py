"""The items that a policy's list of candidates leaves out for a row: items of the history, and items that the user takes later."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec.preference.exclusions import Exclusions, representatives
from genrec.types import SamplerContext, SequenceBatch


class LeftOutItems:
    """Lists of items that are left out, one for each row. The target, and items with its Semantic ID, are never in them.

    `seen=False` leaves out the items of the history. `later=False` leaves out the items that the user takes in training more often
    than the history shows: after the target, or before a history that is cut off. Other items with the Semantic ID of one of these
    are left out, too.
    """

    def __init__(self, context: SamplerContext, seen: bool, later: bool) -> None:
        self.seen = seen
        self.representative = representatives(context)  # int64 [N + 1]  the lowest item with the same Semantic ID
        self.twins = _twins(self.representative)  # int64 [N + 1, S - 1]  the other items with an item's Semantic ID, 0 = none
        self._later = None if later else _OutsideHistory(context)

    def to(self, device: torch.device) -> LeftOutItems:
        """Move the tables that a step reads to the device of its rows, in place, and return this object."""
        self.representative, self.twins = self.representative.to(device), self.twins.to(device)
        return self

    def shares_semantic_id(self, target: Tensor, items: Tensor) -> Tensor:
        """Return whether items int64 [X, M] are, or share the Semantic ID of, their row's target int64 [X]: bool [X, M]."""
        return (self.representative[items] == self.representative[target].unsqueeze(1)) & (items > 0)

    def __call__(self, rows: SequenceBatch, host: SequenceBatch) -> Tensor | None:
        """Return the items left out for rows on the policy's device, int64 [X, E] (0 = none); `host` are the rows on the CPU."""
        lists = [] if self.seen else [rows.items]
        if self._later is not None:
            lists.append(self._later(host).to(rows.target.device))
        if not lists:
            return None
        items = torch.cat(lists, 1)
        items = torch.cat([items, self.twins[items].flatten(1)], 1)
        return items.masked_fill(self.shares_semantic_id(rows.target, items), 0)


class _OutsideHistory:
    """The training items of each user, and which of them a history does not show."""

    def __init__(self, context: SamplerContext) -> None:
        self.exclusions = Exclusions(context)
        users, items = (torch.from_numpy(context.interactions[name].to_numpy("int64", copy=True)) for name in ("user", "item"))
        width = context.item_count + 1
        pairs = torch.unique(users * width + items)  # ascending by user
        self.items = torch.cat([pairs % width, torch.zeros(1, dtype=torch.int64)])
        num_users = int(users.max()) + 1 if len(users) else 1
        self.start = torch.searchsorted(pairs, torch.arange(num_users + 1) * width)  # int64 [users + 1]

    def __call__(self, rows: SequenceBatch) -> Tensor:
        """Return the items of the rows' users outside their histories, int64 [X, E], 0 = none."""
        user = rows.user.clamp(max=len(self.start) - 2)
        start, end = self.start[user], self.start[user + 1]
        end = torch.where(rows.user == user, end, start)  # a user without training events has none
        place = start.unsqueeze(1) + torch.arange(int((end - start).max()) if len(user) else 0)
        items = torch.where(place < end.unsqueeze(1), self.items[place.clamp(max=len(self.items) - 1)], 0)
        return torch.where(self.exclusions.outside_history(rows, items), items, 0)


def _twins(representative: Tensor) -> Tensor:
    """Return the other items of each item's Semantic ID, int64 [N + 1, S - 1], 0 = none; S is the most items of a Semantic ID.

    `representative` int64 [N + 1] is the lowest item with the same Semantic ID, and 0 for item 0.
    """
    order = representative.argsort(stable=True)
    group = representative[order]
    first, count = torch.searchsorted(group, group), torch.bincount(group, minlength=len(group))[group]
    most = int(count[1:].max()) if len(group) > 1 else 1
    # Row i of a group of c items lists the c - 1 places after its own, cyclically.
    step = torch.arange(1, most)
    place = first.unsqueeze(1) + (torch.arange(len(group)).unsqueeze(1) - first.unsqueeze(1) + step) % count.unsqueeze(1)
    others = torch.where(step < count.unsqueeze(1), order[place], 0)
    return torch.empty_like(others).index_copy_(0, order, others)
