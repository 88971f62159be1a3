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
    """A division of the catalog into groups. An item of several groups belongs to each with an equal share."""

    names: tuple[str, ...]  # G names
    membership: Tensor  # float64 [N + 1, G]  a row adds up to 1, or to 0 for an item without a group; row 0 is 0


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
    counts = popularity[order].double()
    before = counts.cumsum(0) - counts
    found = torch.full((len(popularity),), -1, dtype=torch.int64)
    found[order] = (groups * before / counts.sum().clamp(min=1)).floor().long().clamp(max=groups - 1)
    found[1:][popularity[1:] == 0] = groups - 1
    return found


def groups_of_popularity(popularity: Tensor) -> ItemGroups:
    """Return the five groups of `popularity_group` as `ItemGroups`."""
    group = popularity_group(popularity)
    membership = torch.zeros(len(group), NUM_POPULARITY_GROUPS, dtype=torch.float64)
    membership[torch.arange(1, len(group)), group[1:]] = 1.0
    return ItemGroups(
        tuple(f"popularity {number + 1} of {NUM_POPULARITY_GROUPS}" for number in range(NUM_POPULARITY_GROUPS)), membership
    )


def groups_of_genres(genres: Sequence[str], separator: str = "|") -> ItemGroups | None:
    """Return the genres as groups, from the genres of items 1..N as text such as "Action|Comedy". None if no item has one."""
    lists = [[name.strip() for name in text.split(separator) if name.strip()] for text in genres]
    names = tuple(sorted({name for each in lists for name in each}))
    if not names:
        return None
    place = {name: number for number, name in enumerate(names)}
    membership = torch.zeros(len(lists) + 1, len(names), dtype=torch.float64)
    for item, each in enumerate(lists, start=1):
        for name in set(each):
            membership[item, place[name]] = 1.0 / len(set(each))
    return ItemGroups(names, membership)


def group_shares(items: Tensor, groups: ItemGroups, popularity: Tensor) -> Tensor:
    """Return GU of each group, float64 [G]: its share in the recommendations minus its share in the training interactions.

    `items` int64 [U, n], 0 for an empty slot; `popularity` int64 [N + 1]. Items without a group count in neither share. A group that
    is recommended more than users take it has a positive value. Source: Jiang et al. 2024, "Item-side Fairness of Large Language
    Model-based Recommendation System" (WWW), equation of GU, with the training interactions of all users as the history.
    """
    if int(items.max()) >= len(groups.membership):
        raise InputError(f"recommended items must lie in 0..{len(groups.membership) - 1}, got {int(items.max())}")
    recommended = torch.bincount(items.flatten(), minlength=len(groups.membership)).double() @ groups.membership
    taken = popularity.double() @ groups.membership
    return recommended / recommended.sum().clamp(min=1e-300) - taken / taken.sum().clamp(min=1e-300)


def mgu(items: Tensor, groups: ItemGroups, popularity: Tensor) -> Tensor:
    """Return MGU, mean group unfairness: the mean of |GU| over the groups, float64 []; 0 is fair. See `group_shares`."""
    return group_shares(items, groups, popularity).abs().mean()


def dgu(items: Tensor, groups: ItemGroups, popularity: Tensor) -> Tensor:
    """Return DGU, the difference of the largest and the smallest GU of the groups, float64 []; 0 is fair. See `group_shares`."""
    shares = group_shares(items, groups, popularity)
    return shares.max() - shares.min()


def _by_popularity(popularity: Tensor) -> Tensor:
    """Return items 1..N, the most popular first, equal ones by the lower id: int64 [N]."""
    return popularity[1:].argsort(descending=True, stable=True) + 1
