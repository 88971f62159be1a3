"""Exclusions: the items that a row may not get as negatives, and the selection of negatives from candidates.

`Exclusions` and `take_first` are public: use them in your own samplers. Everything runs on the CPU, without a Python loop over
examples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genrec.item_rows import contains, repeated
from genrec.types import SamplerContext, SequenceBatch


class Exclusions:
    """Masks of the items that a row may not get as negatives.

    Excluded are the target, the history, the user's training items, items that share a Semantic ID with one of these, and the items
    that `context.filters` reject. Items are compared by Semantic ID because a policy sees nothing else of an item. Training items
    are excluded whether the user takes them before or after the target. Validation and test items are not excluded: excluding them
    would leak them to the policy.
    """

    def __init__(self, context: SamplerContext) -> None:
        users, items = (torch.from_numpy(context.interactions[name].to_numpy("int64", copy=True)) for name in ("user", "item"))
        self.representative = representatives(context)  # int64 [N + 1]  the lowest item with the same Semantic ID
        self.max_shared = int(torch.bincount(self.representative[1:]).max())  # most items with one Semantic ID, at least 1
        self._training = UserItemPairs(users, items, context.item_count)
        collided = context.semantic_ids.collided > 0
        self._training_ids = UserItemPairs(users, self.representative[items], context.item_count) if collided else self._training
        self._filters = context.filters

    def __call__(self, batch: SequenceBatch, candidates: Tensor) -> Tensor:
        """Return the mask of excluded candidates, bool [B, M]. `candidates` is int64 [B, M] in 0..N; 0 is always excluded."""
        ids = self.representative[candidates]
        return (
            self.always(batch, candidates)
            | self._training_ids.contains(batch.user.unsqueeze(1), ids)
            | contains(self.representative[batch.items], ids)
        )

    def allowing_history(self, batch: SequenceBatch, candidates: Tensor) -> Tensor:
        """Return the mask of excluded candidates, bool [B, M], for a draw that offers items of the history."""
        return self.always(batch, candidates) | self.outside_history(batch, candidates)

    def outside_history(self, batch: SequenceBatch, candidates: Tensor) -> Tensor:
        """Return whether the user takes a candidate's Semantic ID in training more often than the history shows: bool [B, M].

        The other times are after the history ends or before it begins: a user who takes items 5, 8, 5 in training, with the history
        [5], takes item 5 once more, so item 5 is marked.
        """
        ids = self.representative[candidates]
        shown = (self.representative[batch.items].unsqueeze(1) == ids.unsqueeze(2)).sum(2)
        return self._training_ids.count(batch.user.unsqueeze(1), ids) > shown

    def take_allowed(self, batch: SequenceBatch, candidates: Tensor, num_negatives: int) -> Tensor:
        """Return the first allowed candidates of each row, no two with the same Semantic ID: int64 [B, num_negatives].

        A row with fewer allowed candidates ends with zeros.
        """
        return take_first(candidates, ~self(batch, candidates), num_negatives, self.representative)

    def shares_semantic_id(self, batch: SequenceBatch, candidates: Tensor) -> Tensor:
        """Return whether a candidate is the target or shares its Semantic ID: bool [B, M]."""
        return (self.representative[candidates] == self.representative[batch.target].unsqueeze(1)) & (candidates > 0)

    def in_training(self, batch: SequenceBatch, candidates: Tensor) -> Tensor:
        """Return whether a candidate, compared by item id, is a training item of the user: bool [B, M]."""
        return self._training.contains(batch.user.unsqueeze(1), candidates)

    def in_history(self, batch: SequenceBatch, candidates: Tensor) -> Tensor:
        """Return whether a candidate, compared by item id, is in the history: bool [B, M]."""
        return contains(batch.items, candidates)

    def always(self, batch: SequenceBatch, candidates: Tensor) -> Tensor:
        """Return the candidates excluded from every draw, bool [B, M]: 0, the target's Semantic ID, and filtered items."""
        excluded = (candidates == 0) | self.shares_semantic_id(batch, candidates)
        for rejects in self._filters:
            excluded = excluded | rejects(batch, candidates)
        return excluded


class UserItemPairs:
    """A multiset of (user, item) pairs, sorted once and searched by bisection."""

    def __init__(self, users: Tensor, items: Tensor, item_count: int) -> None:
        self._width = item_count + 1
        keys, counts = torch.unique(users * self._width + items, return_counts=True)
        end = torch.tensor([torch.iinfo(torch.int64).max])  # larger than any key, so a search always ends on a key
        self._keys, self._counts = torch.cat([keys, end]), torch.cat([counts, torch.zeros(1, dtype=torch.int64)])

    def follow(self, device: torch.device) -> None:
        """Move the pairs to a device, once, so that a step on a GPU does not wait for it."""
        if self._keys.device != device:
            self._keys, self._counts = self._keys.to(device), self._counts.to(device)

    def contains(self, users: Tensor, items: Tensor) -> Tensor:
        """Return whether each pair is in the set: bool, shapes broadcast."""
        return self.count(users, items) > 0

    def count(self, users: Tensor, items: Tensor) -> Tensor:
        """Return how often each pair is in the set: int64, shapes broadcast."""
        wanted = users * self._width + items
        place = torch.searchsorted(self._keys, wanted)
        return torch.where(self._keys[place] == wanted, self._counts[place], 0)


def take_first(candidates: Tensor, allowed: Tensor, num_negatives: int, representative: Tensor | None = None) -> Tensor:
    """Return the first distinct allowed candidates of each row, int64 [B, num_negatives], with 0 at the end of a short row.

    `candidates` is int64 [B, M] and `allowed` bool [B, M]. With `representative`, int64 [N + 1] (`Exclusions.representative`), items
    that share a Semantic ID count as one.
    """
    candidates = torch.where(allowed, candidates, 0)
    keep = (candidates > 0) & ~repeated(candidates if representative is None else representative[candidates])
    place = keep.cumsum(1).sub_(1)
    place = torch.where(keep & (place < num_negatives), place, num_negatives)  # the last column collects the rest and is cut off
    return candidates.new_zeros(len(candidates), num_negatives + 1).scatter_(1, place, candidates)[:, :num_negatives]


def on_cpu(batch: SequenceBatch) -> SequenceBatch:
    """Return the batch on the CPU. Negatives are drawn there, so a draw does not depend on the device."""
    return SequenceBatch(*(tensor.cpu() for tensor in batch))


def rows_of(batch: SequenceBatch, rows: Tensor) -> SequenceBatch:
    """Return the given rows, int64 [R], of a batch."""
    return SequenceBatch(*(tensor[rows] for tensor in batch))


def representatives(context: SamplerContext) -> Tensor:
    """Return, for each item, the lowest item with the same Semantic ID: int64 [N + 1], 0 for item 0."""
    start, items = context.semantic_ids.items_by_leaf()
    lowest = torch.repeat_interleave(items[start[:-1].long()].long(), start.diff().long())
    return torch.zeros(context.item_count + 1, dtype=torch.int64).scatter_(0, items.long(), lowest)
