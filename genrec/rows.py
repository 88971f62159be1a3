"""Rows of items, int64 [B, n] with 0 for none: which repeat, and which stand in another row. Tensors in and out, no Python per row."""

from __future__ import annotations

import torch
from torch import Tensor


def repeated(items: Tensor) -> Tensor:
    """Where an item stands that stood earlier in its row: int64 [B, M] -> bool [B, M]."""
    ordered, order = items.sort(dim=1, stable=True)  # stable: the first of equal items comes first
    again = torch.zeros_like(items, dtype=torch.bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    return torch.zeros_like(again).scatter(1, order, again)


def contains(rows: Tensor, items: Tensor) -> Tensor:
    """Whether an item of int64 [B, M] is in the same row of int64 [B, E]: bool [B, M]; 0, which is no item, never is."""
    if rows.shape[1] == 0:
        return torch.zeros_like(items, dtype=torch.bool)
    ordered = rows.sort(dim=1).values
    place = torch.searchsorted(ordered, items.contiguous()).clamp(max=rows.shape[1] - 1)
    return (ordered.gather(1, place) == items) & (items > 0)
