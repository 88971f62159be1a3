"""Rows of items, int64 [B, n] with 0 for none: which repeat, which stand in another row, which come first. No Python per row.

There is one order of candidates: by score, equal scores by number. Score and number become one integer key, and no two keys of
different numbers are equal, so that what is kept never depends on how a library's top-k treats equal values, on the device or on the
batch. The bits of a float32, read as an integer, are in the order of its value (those below 0 turned round).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from genrec.types import Ranking

HIGH = 2**32  # a key is HIGH x (bits of the score, best lowest) + number


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


def keys(score: Tensor, number: Tensor) -> Tensor:
    """Scores float32 and numbers int64 of 0 .. 2^31 - 1, shapes broadcast -> int64, lower is better."""
    return torch.add(number, _turned((0.0 - score).view(torch.int32)), alpha=HIGH)  # 0 - score is never the other zero, -0


def scores(key: Tensor) -> Tensor:
    """The scores that keys were made of, float32."""
    return 0.0 - _turned((key >> 32).int()).view(torch.float32)


def numbers(key: Tensor) -> Tensor:
    """The numbers that keys were made of, int64."""
    return key & (HIGH - 1)


def best(key: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Keys int64 [B, X] -> the best of each row, sorted, and their places, int64 [B, min(count, X)] each."""
    found = key.topk(min(count, key.shape[1]), largest=False, sorted=True)
    return found.values, found.indices


def ranking(key: Tensor, n: int, broken: Tensor) -> Ranking:
    """Keys of items int64 [B, X] -> the `n` best; item 0 and -inf where there are fewer, NaN all through where bool [B] `broken`."""
    kept, _ = best(key, n)
    kept = pad(kept, (0, n - kept.shape[1]), value=torch.iinfo(torch.int64).max)
    score = scores(kept)
    nothing = ~(score > -torch.inf)
    score = score.masked_fill(nothing, -torch.inf).masked_fill(broken.unsqueeze(1), torch.nan)
    return Ranking(numbers(kept).masked_fill(nothing, 0), score)


def _turned(bits: Tensor) -> Tensor:
    """Bits of a float32 <-> an integer in the order of its value, int32; its own inverse."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
