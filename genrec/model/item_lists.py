"""Conversion between the trie's leaves, which are Semantic IDs, and lists of items: excluded items before a search, rankings after it.

A leaf that several items share represents all of them: each of its items has the leaf's score and takes one slot of a list.

Items are stored in one row, leaf by leaf, ascending within a leaf. The index of an item in this row is its *place*. Excluded items
become a few places per user, and the nodes that they rule out a few nodes per depth, so that no tensor here is as wide as the catalog.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from genrec.item_rows import keys, ranking, repeated
from genrec.types import Ranking


class LeafItems(NamedTuple):
    """The items of every leaf."""

    start: Tensor  # int32 [leaves + 1]  the places of leaf i are start[i] .. start[i+1]-1
    items: Tensor  # int32 [N]  the item at each place, ascending within a leaf
    place: Tensor  # int32 [N + 1]  the place of each item; N for row 0, which is no item
    largest: int  # the number of items of the largest leaf; 1 where no two items share a Semantic ID

    def lowest_item(self, leaf: Tensor) -> Tensor:
        """Return the lowest item of each leaf: int64 [...] -> int64 [...]."""
        return self.items[leaf if self.largest == 1 else self.start[leaf]].long()


class ExcludedPlaces(NamedTuple):
    """The places and nodes that each user's excluded items rule out.

    Every row is ascending and padded with the first number that is out of range.
    """

    places: Tensor  # int64 [B, E]  the places of the excluded items, without repetitions
    nodes: tuple[Tensor, ...]  # int64 [B, F] for each depth from 1 on: the nodes with excluded items only
    leaf: Tensor | None  # int64 [B, E]  the leaf of each place; None where no two items share a leaf
    lowest_item: Tensor | None  # int64 [B, E]  the lowest item of that leaf that is not excluded (arbitrary if there is none)

    def rows(self, rows: slice) -> ExcludedPlaces:
        """Return the exclusions of a range of users."""
        parts = (None if part is None else part[rows] for part in (self.leaf, self.lowest_item))
        return ExcludedPlaces(self.places[rows], tuple(nodes[rows] for nodes in self.nodes), *parts)


class Beams(NamedTuple):
    """The best leaves of each user."""

    leaf: Tensor  # int64 [B, W]  best first; meaningless where the score is -inf
    score: Tensor  # float32 [B, W]  log-probability of the Semantic ID; -inf where there is no beam, NaN where the policy's is NaN


def exclude_items(leaves: LeafItems, starts: Sequence[Tensor], items: Tensor | None) -> ExcludedPlaces | None:
    """Return the places and nodes that excluded items rule out, or None without excluded items.

    `items` is int64 [B, E] in any order, 0 = none. `starts` holds, from the root's depth on, where the children of each node begin,
    int32 [nodes + 1].
    """
    if items is None or items.shape[1] == 0:
        return None
    places = _distinct(leaves.place[items].long(), len(leaves.items))
    excluded_leaves = places if leaves.largest == 1 else _parents_of_all_children(places, leaves.start)
    nodes = [excluded_leaves]
    for start in reversed(starts[1:]):
        nodes.append(_parents_of_all_children(nodes[-1], start))
    if leaves.largest == 1:
        return ExcludedPlaces(places, tuple(reversed(nodes)), None, None)
    leaf = parents(places, leaves.start)
    lowest_place = _allowed_places(places, leaves.start[leaf.clamp(max=len(leaves.start) - 2)].long())
    lowest_item = leaves.items[lowest_place.clamp(max=len(leaves.items) - 1)].long()
    return ExcludedPlaces(places, tuple(reversed(nodes)), leaf, lowest_item)


def parents(children: Tensor, start: Tensor) -> Tensor:
    """Return the parent of each child, int64 [...]; a child that is out of range gets the number of parents.

    `start` int32 [parents + 1]: the children of parent i are start[i] .. start[i+1]-1.
    """
    return torch.searchsorted(start, children.int(), right=True) - 1


def rank_items(beams: Beams, leaves: LeafItems, excluded: ExcludedPlaces | None, n: int) -> Ranking:
    """Return the `n` best items of the beams, ordered by score; equal scores, also within a leaf, are ordered by item id."""
    if leaves.largest == 1:
        items, score = leaves.items[beams.leaf.clamp(max=len(leaves.items) - 1)].long(), beams.score
    else:
        items, score = _expand_leaves(beams, leaves, None if excluded is None else excluded.places, n)
    return ranking(keys(score, items), n, beams.score.isnan().any(1))


def lowest_items(beams: Beams, leaves: LeafItems, excluded: ExcludedPlaces | None) -> Tensor:
    """Return the lowest allowed item of each beam, int64 [B, W]; 0 where there is no beam."""
    items, score = _expand_leaves(beams, leaves, None if excluded is None else excluded.places, 1)
    return items.masked_fill(score == -torch.inf, 0)


def _expand_leaves(beams: Beams, leaves: LeafItems, excluded: Tensor | None, n: int) -> tuple[Tensor, Tensor]:
    """Return the items of the beams, int64 [B, W x G], and their scores, -inf where there is no item.

    G is the size of the largest leaf, at most `n`. Items with equal scores are listed by id, so that a list of `n` items never needs
    more than the first `n` allowed items of a leaf.
    """
    leaf = beams.leaf.clamp(max=len(leaves.start) - 2)
    first, end = leaves.start[leaf].long(), leaves.start[leaf + 1].long()
    place = first.unsqueeze(-1) + torch.arange(min(n, leaves.largest), device=first.device)
    if excluded is not None:
        place = _allowed_places(excluded, place.flatten(1), first.repeat_interleave(place.shape[-1], 1)).view(place.shape)
    score = beams.score.unsqueeze(-1).masked_fill(place >= end.unsqueeze(-1), -torch.inf)
    return leaves.items[place.clamp(max=len(leaves.items) - 1)].long().flatten(1), score.flatten(1)


def _allowed_places(excluded: Tensor, target: Tensor, first: Tensor | None = None) -> Tensor:
    """Return the allowed place with index `target - first` among the allowed places from `first` on, int64 [B, X].

    `excluded` int64 [B, E] is ascending. `first` defaults to `target`, which gives the next allowed place.

    With excluded places x_0 < x_1 < ..., there are x_j - j allowed places before x_j, which never decreases with j. The allowed place
    number k (from 0) is therefore k + #{j: x_j - j <= k}. Padding is greater than every place and never counts.
    """
    first = target if first is None else first
    index = torch.arange(excluded.shape[1], device=excluded.device)
    skipped = torch.searchsorted(excluded, first.contiguous())
    number = target - skipped  # among all allowed places
    allowed_before = excluded - index
    is_new = excluded.diff(dim=1, prepend=excluded[:, :1] - 1) > 0
    allowed_before = torch.where(is_new, allowed_before, torch.iinfo(torch.int64).max)
    return number + torch.searchsorted(allowed_before, number.contiguous(), right=True)


def _parents_of_all_children(children: Tensor, start: Tensor) -> Tensor:
    """Return the parents with all of their children in `children` int64 [B, E], distinct and ascending: int64 [B, F], ascending.

    All children of a parent are present where its last child comes (number of children - 1) slots after its first one.
    """
    parent, num_parents = parents(children, start), len(start) - 1
    known = parent.clamp(max=num_parents - 1)
    first, end = start[known].long(), start[known + 1].long()
    slot = torch.arange(children.shape[1], device=children.device) + (end - first - 1)
    ends_there = children.gather(1, slot.clamp(max=children.shape[1] - 1)) == end - 1
    complete = (parent < num_parents) & (children == first) & (slot < children.shape[1]) & ends_there
    return _sort_and_trim(parent.masked_fill(~complete, num_parents), num_parents)


def _distinct(numbers: Tensor, padding: int) -> Tensor:
    """Return the distinct numbers of each row of int64 [B, E], ascending, padded with `padding`, which is above all numbers."""
    return _sort_and_trim(numbers.masked_fill(repeated(numbers), padding), padding)


def _sort_and_trim(numbers: Tensor, padding: int) -> Tensor:
    """Sort each row and drop the columns in which all rows are padding; one column always remains."""
    width = max(1, int((numbers < padding).sum(1).max()))
    return numbers.sort(1).values[:, :width].contiguous()
