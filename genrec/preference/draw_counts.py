"""Counts of drawn negatives and of preferred items by user and item, which evaluation compares with the users' held-out items.

Alignment counts and stores the draws without reading a held-out item. The comparisons are in
`genrec.evaluation.comparison`: `held_out_negatives` and `held_out_preferred`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pandas import DataFrame
from torch import Tensor

MIN_WAITING = 1 << 16  # draws that wait until they are sorted into the pairs, at least


class DrawCounts:
    """How often each user's examples got each item as a negative, or as the preferred item. `name` begins the names of the tensors.

    The state is two sorted arrays, 16 bytes for each distinct (user, item). There are at most as many of them as draws: 3 MB after the
    default 500 steps of 128 examples with 3 negatives, and 1.3 GB after 20,000 steps of 256 examples with 16 negatives that never
    repeat. New draws wait, 8 bytes each, until they are as many as the pairs. A merge needs about 40 bytes more for each pair for a
    moment, and a checkpoint holds the arrays.
    """

    def __init__(self, item_count: int, name: str = "drawn") -> None:
        self.width, self.name = item_count + 1, name
        self.pairs = torch.zeros(0, dtype=torch.int64)  # [X]  user * (N + 1) + item, ascending
        self.counts = torch.zeros(0, dtype=torch.int64)  # [X]  draws of each pair
        self._waiting: list[Tensor] = []
        self._num_waiting = 0

    def update(self, user: Tensor, items: Tensor) -> None:
        """Add the items int64 [B, K] of users int64 [B]; 0 is no draw. Tensors are on the CPU."""
        keys = (user.unsqueeze(1) * self.width + items)[items > 0]
        self._waiting.append(keys)
        self._num_waiting += len(keys)
        if self._num_waiting >= max(MIN_WAITING, len(self.pairs)):
            self._merge()

    def _merge(self) -> None:
        """Sort the waiting draws into the pairs."""
        new, times = torch.unique(torch.cat([self.pairs[:0], *self._waiting]), return_counts=True)
        self._waiting, self._num_waiting = [], 0
        self._add(new, times)

    def _add(self, new: Tensor, times: Tensor) -> None:
        """Add draws to the counts: distinct pairs int64 [P] and how often each was drawn."""
        self.pairs, place = torch.unique(torch.cat([self.pairs, new]), return_inverse=True)
        counts = torch.zeros_like(self.pairs)
        self.counts = counts.index_add_(0, place, torch.cat([self.counts, times]))

    def add(self, other: DrawCounts) -> None:
        """Add the draws of other counts for the same catalog."""
        self._merge()
        self._add(*other.tensors().values())

    def clear(self) -> None:
        """Forget all draws."""
        self.pairs, self.counts, self._waiting, self._num_waiting = self.pairs[:0], self.counts[:0], [], 0

    def tensors(self) -> dict[str, Tensor]:
        """Return the whole state for a checkpoint, int64 [X] each."""
        self._merge()
        return {f"{self.name}_pairs": self.pairs, f"{self.name}_counts": self.counts}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Continue from the tensors of a checkpoint. Raise ValueError if they are not a state of this class."""
        pairs, counts = saved[f"{self.name}_pairs"], saved[f"{self.name}_counts"]
        if pairs.ndim != 1 or pairs.shape != counts.shape or not pairs.dtype == counts.dtype == torch.int64:
            raise ValueError(
                f"{self.name}_pairs and {self.name}_counts must be int64 of one length, got "
                f"{pairs.dtype} {list(pairs.shape)} and {counts.dtype} {list(counts.shape)}"
            )
        self.pairs, self.counts, self._waiting, self._num_waiting = pairs.clone(), counts.clone(), [], 0

    def table(self) -> DataFrame:
        """Return the columns user, item and count, int64, sorted by user and item."""
        self._merge()
        columns = {"user": self.pairs // self.width, "item": self.pairs % self.width, "count": self.counts}
        return DataFrame({name: column.numpy() for name, column in columns.items()})
