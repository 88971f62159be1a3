"""Stage 5, which items a row may never be given as negatives, and how candidates become negatives.

In: a batch and candidates int64 [B, M]. Out: what is forbidden, bool [B, M], or the first `count` allowed ones, int64 [B, count].
Everything here is on the CPU and without Python per example. Of use to samplers outside this package too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genrec.item_rows import contains, repeated
from genrec.types import SamplerContext, SequenceBatch


class Exclusions:
    """The items no row may be given: the target, the history, the user's training items, what has the Semantic ID of one of them, and
    what `context.filters` refuse.

    A policy knows an item by its Semantic ID alone, so that items are compared by it. Training items count whether the user took them
    before the target or takes them after it. Validation and test items are not known here, and so not forbidden: leaving them out
    would tell the policy what they are.
    """

    def __init__(self, context: SamplerContext) -> None:
        users, items = (torch.from_numpy(context.interactions[name].to_numpy("int64", copy=True)) for name in ("user", "item"))
        self.one = one_of_each(context)  # int64 [N + 1]  the item that stands for all with its Semantic ID: the lowest
        self.largest = int(torch.bincount(self.one[1:]).max())  # the most items that share one Semantic ID, itself among them
        self._taken = Pairs(users, items, context.item_count)
        shared = context.semantic_ids.collided > 0
        self._taken_ids = Pairs(users, self.one[items], context.item_count) if shared else self._taken
        self._filters = context.filters

    def __call__(self, batch: SequenceBatch, candidates: Tensor) -> Tensor:
        """A batch and candidates int64 [B, M], 0..N -> bool [B, M]; 0 (none) is forbidden."""
        ids = self.one[candidates]
        return (
            self.refused(batch, candidates)
            | self._taken_ids.contain(batch.user.unsqueeze(1), ids)
            | contains(self.one[batch.history], ids)
        )

    def refused(self, batch: SequenceBatch, candidates: Tensor) -> Tensor:
        """What even a sampler that offers items of the history must not draw: bool [B, M]."""
        refused = (candidates == 0) | self.shares_semantic_id(batch, candidates)
        for refuses in self._filters:
            refused = refused | refuses(batch, candidates)
        return refused

    def elsewhere(self, batch: SequenceBatch, candidates: Tensor) -> Tensor:
        """Whether the user takes a candidate's Semantic ID in training oftener than the history shows it, later or long before: bool
        [B, M]. What a sampler must not draw that offers items of the history, beside what is `refused`.
        """
        ids = self.one[candidates]
        shown = (self.one[batch.history].unsqueeze(1) == ids.unsqueeze(2)).sum(2)
        return self._taken_ids.count(batch.user.unsqueeze(1), ids) > shown

    def take(self, batch: SequenceBatch, candidates: Tensor, count: int) -> Tensor:
        """The first `count` allowed candidates of each row, no two of one Semantic ID: int64 [B, count], 0 where there are fewer."""
        return take_first(candidates, ~self(batch, candidates), count, self.one)

    def shares_semantic_id(self, batch: SequenceBatch, candidates: Tensor) -> Tensor:
        """Whether a candidate is the target, or another item with its Semantic ID: bool [B, M]."""
        return (self.one[candidates] == self.one[batch.target].unsqueeze(1)) & (candidates > 0)

    def in_training(self, batch: SequenceBatch, candidates: Tensor) -> Tensor:
        """Whether the user takes a candidate, this very item, anywhere in training: bool [B, M]."""
        return self._taken.contain(batch.user.unsqueeze(1), candidates)

    def in_history(self, batch: SequenceBatch, candidates: Tensor) -> Tensor:
        """Whether a candidate, this very item, is in the history: bool [B, M]."""
        return contains(batch.history, candidates)


class Pairs:
    """A multiset of (user, item) pairs, sorted once."""

    def __init__(self, users: Tensor, items: Tensor, item_count: int) -> None:
        self._width = item_count + 1
        keys, counts = torch.unique(users * self._width + items, return_counts=True)
        end = torch.tensor([torch.iinfo(torch.int64).max])  # larger than any key, so that a search always ends on a key
        self._keys, self._counts = torch.cat([keys, end]), torch.cat([counts, torch.zeros(1, dtype=torch.int64)])

    def contain(self, users: Tensor, items: Tensor) -> Tensor:
        """Whether a pair is one of them: bool, shapes broadcast."""
        return self.count(users, items) > 0

    def count(self, users: Tensor, items: Tensor) -> Tensor:
        """How often a pair is one of them: int64, shapes broadcast."""
        wanted = users * self._width + items
        place = torch.searchsorted(self._keys, wanted)
        return torch.where(self._keys[place] == wanted, self._counts[place], 0)


def take_first(candidates: Tensor, allowed: Tensor, count: int, one: Tensor | None = None) -> Tensor:
    """Candidates int64 [B, M] and allowed bool [B, M] -> the first `count` distinct allowed ones of each row, int64 [B, count].

    0 at the end of the row where there are fewer. `one` int64 [N + 1] (`Exclusions.one`): items of one Semantic ID are not distinct.
    """
    candidates = torch.where(allowed, candidates, 0)
    keep = (candidates > 0) & ~repeated(candidates if one is None else one[candidates])
    place = keep.cumsum(1).sub_(1)
    place = torch.where(keep & (place < count), place, count)  # column `count` takes what is not kept, and is cut off
    return candidates.new_zeros(len(candidates), count + 1).scatter_(1, place, candidates)[:, :count]


def on_cpu(batch: SequenceBatch) -> SequenceBatch:
    """The batch on the CPU, where negatives are drawn: a draw then does not depend on the device."""
    return SequenceBatch(*(tensor.cpu() for tensor in batch))


def rows_of(batch: SequenceBatch, rows: Tensor) -> SequenceBatch:
    """Some rows of a batch, int64 [rows]."""
    return SequenceBatch(*(tensor[rows] for tensor in batch))


def one_of_each(context: SamplerContext) -> Tensor:
    """For each item the lowest with its Semantic ID: int64 [N + 1], 0 for 0."""
    start, items = context.semantic_ids.items_by_leaf()
    lowest = torch.repeat_interleave(items[start[:-1].long()].long(), start.diff().long())
    return torch.zeros(context.item_count + 1, dtype=torch.int64).scatter_(0, items.long(), lowest)
