"""Leaves of the trie as items: what stands between beams, which are Semantic IDs, and lists, which are of items.

In: the leaves that a search found, and the items that a user must not get. Out: a `Ranking`, and what a search must not follow. A leaf
that several items share stands for all of them, each with the leaf's score; a slot of a list names one item.

Items stand in one row, leaf by leaf, ascending within a leaf; an item's *place* is where it stands there. Excluded items are a few
places a user, and what they forbid is a few nodes a depth: nothing here is as wide as the catalog.
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
    items: Tensor  # int32 [N]  the item at each place; ascending within a leaf
    place: Tensor  # int32 [N + 1]  the place of each item; N for row 0, which is no item
    largest: int  # the most items of one leaf; 1 where no Semantic ID is shared

    def first(self, leaf: Tensor) -> Tensor:
        """Leaves int64 [...] -> the lowest item of each, int64 [...]."""
        return self.items[leaf if self.largest == 1 else self.start[leaf]].long()


class ExcludedPlaces(NamedTuple):
    """What a user's excluded items leave out. Rows are ascending, and filled up with the first number that does not exist."""

    places: Tensor  # int64 [B, E]  of the excluded items, each once
    nodes: tuple[Tensor, ...]  # int64 [B, F] for each depth from 1 on: the nodes with no other item below them
    touched: Tensor | None  # int64 [B, E]  the leaf of each place, repeated; None where no leaf is shared
    lowest: Tensor | None  # int64 [B, E]  the lowest item that is left of that leaf (any, where none is left)

    def rows(self, rows: slice) -> ExcludedPlaces:
        """Of some of the users."""
        some = (None if part is None else part[rows] for part in (self.touched, self.lowest))
        return ExcludedPlaces(self.places[rows], tuple(nodes[rows] for nodes in self.nodes), *some)


class Beams(NamedTuple):
    """The best leaves of each user."""

    leaf: Tensor  # int64 [B, W]  best first; meaningless where the score is -inf
    score: Tensor  # float32 [B, W]  log-probability of the whole Semantic ID; -inf where there is no beam, NaN where a policy's are


def forbid(leaves: LeafItems, starts: Sequence[Tensor], exclude: Tensor | None) -> ExcludedPlaces | None:
    """Excluded items int64 [B, E], 0 = none, in any order -> what they forbid; None where nothing is excluded.

    `starts`: where the children of each node begin, int32 [nodes + 1], depth by depth from the root's.
    """
    if exclude is None or exclude.shape[1] == 0:
        return None
    places = _distinct(leaves.place[exclude].long(), len(leaves.items))
    whole = places if leaves.largest == 1 else _complete(places, leaves.start)
    nodes = [whole]
    for start in reversed(starts[1:]):
        nodes.append(_complete(nodes[-1], start))
    if leaves.largest == 1:
        return ExcludedPlaces(places, tuple(reversed(nodes)), None, None)
    touched = parents(places, leaves.start)
    left = _allowed(places, leaves.start[touched.clamp(max=len(leaves.start) - 2)].long())
    lowest = leaves.items[left.clamp(max=len(leaves.items) - 1)].long()
    return ExcludedPlaces(places, tuple(reversed(nodes)), touched, lowest)


def parents(children: Tensor, start: Tensor) -> Tensor:
    """Children int64 [...] -> whose they are; the number of parents where a child does not exist (its number is that of children)."""
    return torch.searchsorted(start, children.int(), right=True) - 1


def rank_items(beams: Beams, leaves: LeafItems, forbidden: ExcludedPlaces | None, n: int) -> Ranking:
    """The `n` best items of the beams: by score, equal scores (of one leaf's items, too) by item id."""
    if leaves.largest == 1:
        items, score = leaves.items[beams.leaf.clamp(max=len(leaves.items) - 1)].long(), beams.score
    else:
        items, score = _expanded(beams, leaves, None if forbidden is None else forbidden.places, n)
    return ranking(keys(score, items), n, beams.score.isnan().any(1))


def _expanded(beams: Beams, leaves: LeafItems, places: Tensor | None, n: int) -> tuple[Tensor, Tensor]:
    """Beams -> items int64 [B, W x G] and their scores, -inf where there is none.

    G is the largest leaf's size, at most `n`: among items of one score the lowest ids come first, so that a list of `n` never needs
    more of a leaf than its first `n` allowed ones.
    """
    leaf = beams.leaf.clamp(max=len(leaves.start) - 2)
    first, end = leaves.start[leaf].long(), leaves.start[leaf + 1].long()
    place = first.unsqueeze(-1) + torch.arange(min(n, leaves.largest), device=first.device)
    if places is not None:
        place = _allowed(places, place.flatten(1), first.repeat_interleave(place.shape[-1], 1)).view(place.shape)
    score = beams.score.unsqueeze(-1).masked_fill(place >= end.unsqueeze(-1), -torch.inf)
    return leaves.items[place.clamp(max=len(leaves.items) - 1)].long().flatten(1), score.flatten(1)


def _allowed(places: Tensor, wanted: Tensor, first: Tensor | None = None) -> Tensor:
    """Where the `wanted - first`-th place from `first` on is that is not among `places` int64 [B, E], ascending; int64 [B, X].

    With excluded places x_0 < x_1 < ..., x_j - j places that are not excluded lie before x_j, which never falls with j: the k-th
    (from 0) of all that are not excluded is therefore k + #{j: x_j - j <= k}. Fillers lie behind every place, and stay there.
    """
    first = wanted if first is None else first
    count = torch.arange(places.shape[1], device=places.device)
    skipped = torch.searchsorted(places, first.contiguous())
    number = wanted - skipped  # among all places that are not excluded
    before = places - count
    before = torch.where(places.diff(dim=1, prepend=places[:, :1] - 1) > 0, before, torch.iinfo(torch.int64).max)
    return number + torch.searchsorted(before, number.contiguous(), right=True)


def _complete(children: Tensor, start: Tensor) -> Tensor:
    """Distinct children int64 [B, E], ascending -> the parents of which all children are there, int64 [B, F], ascending.

    All are there where a parent's first child stands as many slots before its last as it has children.
    """
    parent, none = parents(children, start), len(start) - 1
    known = parent.clamp(max=none - 1)
    first, end = start[known].long(), start[known + 1].long()
    slot = torch.arange(children.shape[1], device=children.device) + (end - first - 1)
    there = children.gather(1, slot.clamp(max=children.shape[1] - 1)) == end - 1
    whole = (parent < none) & (children == first) & (slot < children.shape[1]) & there
    return _trimmed(parent.masked_fill(~whole, none), none)


def _distinct(numbers: Tensor, none: int) -> Tensor:
    """Each number of int64 [B, E] once, ascending, filled up with `none`, which is above all others."""
    return _trimmed(numbers.masked_fill(repeated(numbers), none), none)


def _trimmed(numbers: Tensor, none: int) -> Tensor:
    """Ascending, as wide as the row that has most of them (one at least)."""
    widest = max(1, int((numbers < none).sum(1).max()))
    return numbers.sort(1).values[:, :widest].contiguous()
