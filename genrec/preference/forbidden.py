"""Stage 5, which items a row may never be given as negatives, and how candidates become negatives.

In: a batch and candidates int64 [B, M]. Out: what is forbidden, bool [B, M], or the first `count` allowed ones, int64 [B, count].
Everything here is on the CPU and without Python per example. Of use to samplers outside this package too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genrec.rows import contains, repeated
from genrec.types import SamplerContext, SequenceBatch


class Forbidden:
    """The items no row may be given: the target, items with the target's Semantic ID, the history, the user's training items.

    Training items count whether the user took them before the target or takes them after it. Validation and test items are
    not known here, and so not forbidden: leaving them out would tell the policy what they are.
    """

    def __init__(self, context: SamplerContext) -> None:
        self._width = context.item_count + 1
        users, items = (torch.from_numpy(context.interactions[name].to_numpy("int64", copy=True)) for name in ("user", "item"))
        end = torch.tensor([torch.iinfo(torch.int64).max])  # larger than any key, so that a search always ends on a key
        self._keys = torch.cat([torch.unique(users * self._width + items), end])  # sorted: one key a (user, item)
        real = torch.arange(1, context.item_count + 1)
        self._leaf = torch.cat([torch.tensor([-1]), context.semantic_ids.leaf(real)])  # int64 [N + 1]

    def __call__(self, batch: SequenceBatch, candidates: Tensor) -> Tensor:
        """A batch and candidates int64 [B, M], 0..N -> bool [B, M]; 0 (none) is forbidden."""
        return (
            (candidates == 0)
            | self.shares_semantic_id(batch, candidates)
            | self.in_training(batch, candidates)
            | self.in_history(batch, candidates)
        )

    def shares_semantic_id(self, batch: SequenceBatch, candidates: Tensor) -> Tensor:
        """Whether a candidate is the target, or another item with its Semantic ID: bool [B, M]."""
        return (self._leaf[candidates] == self._leaf[batch.target].unsqueeze(1)) & (candidates > 0)

    def in_training(self, batch: SequenceBatch, candidates: Tensor) -> Tensor:
        """Whether the user takes a candidate anywhere in training: bool [B, M]."""
        wanted = batch.user.unsqueeze(1) * self._width + candidates
        return self._keys[torch.searchsorted(self._keys, wanted)] == wanted

    def in_history(self, batch: SequenceBatch, candidates: Tensor) -> Tensor:
        """Whether a candidate is in the history: bool [B, M]."""
        return contains(batch.history, candidates)


def take_first(candidates: Tensor, allowed: Tensor, count: int) -> Tensor:
    """Candidates int64 [B, M] and allowed bool [B, M] -> the first `count` distinct allowed ones of each row, int64 [B, count].

    0 at the end of the row where there are fewer.
    """
    candidates = torch.where(allowed, candidates, 0)
    keep = (candidates > 0) & ~repeated(candidates)
    place = keep.cumsum(1).sub_(1)
    place = torch.where(keep & (place < count), place, count)  # column `count` takes what is not kept, and is cut off
    return candidates.new_zeros(len(candidates), count + 1).scatter_(1, place, candidates)[:, :count]


def on_cpu(batch: SequenceBatch) -> SequenceBatch:
    """The batch on the CPU, where negatives are drawn: a draw then does not depend on the device."""
    return SequenceBatch(*(tensor.cpu() for tensor in batch))


def rows_of(batch: SequenceBatch, rows: Tensor) -> SequenceBatch:
    """Some rows of a batch, int64 [rows]."""
    return SequenceBatch(*(tensor[rows] for tensor in batch))
