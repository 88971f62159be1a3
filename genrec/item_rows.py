"""Operations on rows of items, int64 [B, n] with 0 for no item: repetitions, membership, and the best n of a row.

Candidates are ordered by score; equal scores are ordered by number. Score and number are packed into one integer key, and keys of
different numbers are never equal. The selection therefore does not depend on how `topk` treats equal values, on the device or on the
batch. The bits of a float32, read as an integer, sort like its value once the bits of negative values are inverted.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from genrec.types import Ranking

HIGH = 2**32  # a key is HIGH x (bits of the negated score) + number


def repeated(items: Tensor) -> Tensor:
    """Return where an item has occurred earlier in its row: int64 [B, M] -> bool [B, M]."""
    ordered, order = items.sort(dim=1, stable=True)  # stable: equal items keep their order
    repeats = torch.zeros_like(items, dtype=torch.bool)
    repeats[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    return torch.zeros_like(repeats).scatter(1, order, repeats)


def contains(rows: Tensor, items: Tensor) -> Tensor:
    """Return whether each item of int64 [B, M] occurs in the same row of int64 [B, E]: bool [B, M], false for item 0."""
    if rows.shape[1] == 0:
        return torch.zeros_like(items, dtype=torch.bool)
    ordered = rows.sort(dim=1).values
    place = torch.searchsorted(ordered, items.contiguous()).clamp(max=rows.shape[1] - 1)
    return (ordered.gather(1, place) == items) & (items > 0)


def keys(score: Tensor, number: Tensor) -> Tensor:
    """Return sorting keys, int64, lower is better, of float32 scores and int64 numbers in 0 .. 2^31 - 1; shapes are broadcast."""
    return torch.add(number, _sortable((0.0 - score).view(torch.int32)), alpha=HIGH)  # 0 - score is never -0


def scores(key: Tensor) -> Tensor:
    """Return the scores of keys, float32."""
    return 0.0 - _sortable((key >> 32).int()).view(torch.float32)


def numbers(key: Tensor) -> Tensor:
    """Return the numbers of keys, int64."""
    return key & (HIGH - 1)


def best(key: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the best keys of each row of int64 [B, X], sorted, and their places, int64 [B, min(count, X)] each."""
    lowest = key.topk(min(count, key.shape[1]), largest=False, sorted=True)
    return lowest.values, lowest.indices


def ranking(key: Tensor, n: int, has_nan: Tensor) -> Ranking:
    """Return the `n` best items of each row of keys int64 [B, X].

    Lists with fewer items end in item 0 with score -inf. All scores of a row are NaN where `has_nan`, bool [B], is true.
    """
    kept, _ = best(key, n)
    kept = pad(kept, (0, n - kept.shape[1]), value=torch.iinfo(torch.int64).max)
    score = scores(kept)
    empty = ~(score > -torch.inf)
    score = score.masked_fill(empty, -torch.inf).masked_fill(has_nan.unsqueeze(1), torch.nan)
    return Ranking(numbers(kept).masked_fill(empty, 0), score)


def _sortable(bits: Tensor) -> Tensor:
    """Map the bits of a float32 to an int32 that sorts like its value; the function is its own inverse."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
