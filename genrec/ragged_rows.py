"""Rows of different lengths in one tensor, so that memory follows the number of entries and not the longest row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad


class RaggedRows(NamedTuple):
    """R rows. All tensors are on one device."""

    values: Tensor  # [V, ...]  the entries of all rows, one row after another
    first: Tensor  # int64 [R + 1]  where each row begins in `values`, and V

    def __len__(self) -> int:
        return len(self.first) - 1

    def to(self, device: torch.device) -> RaggedRows:
        """Return the rows on a device."""
        return RaggedRows(self.values.to(device), self.first.to(device))

    def longest(self, index: Tensor) -> int:
        """Return the largest number of entries of rows int64 [B]; 0 for no rows. Waits for the device."""
        return int((self.first[index + 1] - self.first[index]).max()) if len(index) else 0

    def padded(self, index: Tensor, width: int, fill: float) -> Tensor:
        """Return rows int64 [B] with `width` entries, [B, width, ...]: later ones are cut off, missing ones are `fill`."""
        place = self.first[index].unsqueeze(1) + torch.arange(width, device=index.device)
        inside = place < self.first[index + 1].unsqueeze(1)
        if not len(self.values):
            return self.values.new_full((*place.shape, *self.values.shape[1:]), fill)
        found = self.values[place.clamp(max=len(self.values) - 1)]
        return torch.where(inside.reshape(*inside.shape, *[1] * (found.ndim - 2)), found, fill)


def ragged(batch: Tensor, empty: float) -> RaggedRows:
    """Return the rows of a batch [B, M, ...] without the entries at their ends that are `empty` throughout."""
    filled = batch != empty
    filled = filled if filled.ndim == 2 else filled.flatten(2).any(2)
    place = torch.arange(1, batch.shape[1] + 1, device=batch.device)
    last = torch.where(filled, place, 0)
    count = last.amax(1) if batch.shape[1] else last.sum(1)
    return RaggedRows(batch[place <= count.unsqueeze(1)], pad(count.cumsum(0), (1, 0)))


def joined(parts: Sequence[RaggedRows]) -> RaggedRows:
    """Return the rows of one or more parts, one part after another."""
    counts = torch.cat([part.first.diff() for part in parts])
    return RaggedRows(torch.cat([part.values for part in parts]), pad(counts.cumsum(0), (1, 0)))
