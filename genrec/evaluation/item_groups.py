"""Groups of items by popularity or genre, and how recommendations are spread over them (item-side fairness)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from genrec.errors import InputError

NUM_POPULARITY_GROUPS = 5
HEAD_SHARE = 0.2  # share of the catalog's items that are the head


class ItemGroups(NamedTuple):
    """A division of the catalog into G groups, as P pairs of an item and a group.

    The weights of an item's pairs add up to 1: an item of several groups belongs to each with an equal share. An item may be in no
    group.
    """

    names: tuple[str, ...]  # G names
    item: Tensor  # int64 [P]  1..N
    group: Tensor  # int64 [P]  0..G - 1
    weight: Tensor  # float64 [P]

    def totals(self, counts: Tensor) -> Tensor:
        """Return the sum over the items of each group of counts int64 [N + 1], float64 [G]."""
        return torch.bincount(self.group, self.weight * counts[self.item], minlength=len(self.names))


def head_items(popularity: Tensor) -> Tensor:
    """Return whether each item is in the head: the 20 % of the items with the most training interactions, rounded up.

    `popularity` int64 [N + 1] counts the training interactions; entry 0 belongs to no item. Equal counts are ordered by the lower
    item. bool [N + 1]. All other items are the tail (the 20/80 division of Park & Tuzhilin 2008, RecSys).
    """
    items = len(popularity) - 1
    head = torch.zeros(items + 1, dtype=torch.bool)
    head[_by_popularity(popularity)[: -(-items // round(1 / HEAD_SHARE))]] = True
    return head


def popularity_group(popularity: Tensor, groups: int = NUM_POPULARITY_GROUPS) -> Tensor:
    """Return the popularity group of each item, int64 [N + 1]: 0 is the most popular group; entry 0 is -1.

    Groups have about equal training interactions: an item is in group floor(groups * share), where share is the part of all training
    interactions that belongs to more popular items, and to equally popular items with a lower id. Items without a training
    interaction are in the last group. `popularity` int64 [N + 1].
    """
    order = _by_popularity(popularity)
    counts = popularity[order]
    before = counts.cumsum(0) - counts
    found = torch.full_like(popularity, -1)
    found[order] = (groups * before // counts.sum().clamp(min=1)).clamp(max=groups - 1).masked_fill(counts == 0, groups - 1)
    return found


def groups_of_popularity(popularity: Tensor) -> ItemGroups:
    """Return the groups of `popularity_group` that hold an item as `ItemGroups`."""
    number = popularity_group(popularity)[1:]
    kept = torch.bincount(number, minlength=NUM_POPULARITY_GROUPS).nonzero().squeeze(1)
    names = tuple(f"popularity {place + 1} of {NUM_POPULARITY_GROUPS}" for place in kept.tolist())
    items = torch.arange(1, len(popularity))
    return ItemGroups(names, items, torch.searchsorted(kept, number), torch.ones(len(items), dtype=torch.float64))


def groups_of_genres(genres: Sequence[str], separator: str = "|") -> ItemGroups | None:
    """Return the genres as groups, from the genres of items 1..N as text such as "Action|Comedy". None if no item has one."""
    lists = [sorted({name.strip() for name in text.split(separator)} - {""}) for text in genres]
    names = tuple(sorted({name for each in lists for name in each}))
    if not names:
        return None
    place = {name: number for number, name in enumerate(names)}
    sizes = torch.tensor([len(each) for each in lists])
    group = torch.tensor([place[name] for each in lists for name in each])
    return ItemGroups(
        names, torch.arange(1, len(lists) + 1).repeat_interleave(sizes), group, 1 / sizes.repeat_interleave(sizes).double()
    )


def group_shares(items: Tensor, groups: ItemGroups, popularity: Tensor) -> Tensor | None:
    """Return GU of each group, float64 [G]: its share in the recommendations minus its share in the training interactions.

    `items` int64 [U, n], 0 for an empty slot; `popularity` int64 [N + 1]. Items without a group count in neither share. A group that
    is recommended more than users take it has a positive value. None if no recommended item, or no training interaction, has a group.
    Source: Jiang et al. 2024, arXiv 2402.15215 (IFairLRS), also used by Gao et al. 2025, arXiv 2412.09243 (SPRec), with the signed
    difference. They count the histories of the test users; here the training interactions of all users count.
    """
    if int(items.max()) >= len(popularity):
        raise InputError(f"recommended items must lie in 0..{len(popularity) - 1}, got {int(items.max())}")
    recommended = groups.totals(torch.bincount(items.flatten(), minlength=len(popularity)))
    taken = groups.totals(popularity)
    return recommended / recommended.sum() - taken / taken.sum() if recommended.any() and taken.any() else None


def mgu(items: Tensor, groups: ItemGroups, popularity: Tensor) -> Tensor | None:
    """Return MGU, mean group unfairness: the mean of |GU| over the groups, float64 []; 0 is fair. See `group_shares`."""
    shares = group_shares(items, groups, popularity)
    return None if shares is None else shares.abs().mean()


def dgu(items: Tensor, groups: ItemGroups, popularity: Tensor) -> Tensor | None:
    """Return DGU, the difference of the largest and the smallest GU of the groups, float64 []; 0 is fair. See `group_shares`."""
    shares = group_shares(items, groups, popularity)
    return None if shares is None else shares.max() - shares.min()


def _by_popularity(popularity: Tensor) -> Tensor:
    """Return items 1..N, the most popular first, equal ones by the lower id: int64 [N]."""
    return popularity[1:].argsort(descending=True, stable=True) + 1
