"""Stage 6: metrics. Ranking metrics of one held-out target per user, and what stored lists say beyond accuracy.

In: ranks int64 [U], 1-based, 0 = missed (a `genrec.types.Metric` each), or lists int64 [U, n], best first, 0 where a slot is empty.
Out: one value a user, float32 [U], or one number. A mean over users is taken in float64 by whoever needs it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genrec.errors import InputError, UsageError


def recall(rank: Tensor, n: int) -> Tensor:
    """1 if 1 <= rank <= n, else 0. With one target per user this is also the hit rate. int64 [U] -> float32 [U]."""
    return _hit(rank, n).float()


def ndcg(rank: Tensor, n: int) -> Tensor:
    """1 / log2(rank + 1) if 1 <= rank <= n, else 0: the ideal list has the only target first, so its gain is 1.

    int64 [U] -> float32 [U]. Source: Jaervelin & Kekaelaeinen 2002, with the discount log2(rank + 1).
    """
    return _hit(rank, n) / torch.log2(rank.clamp(min=1) + 1.0)


def mrr(rank: Tensor, n: int) -> Tensor:
    """1 / rank if 1 <= rank <= n, else 0: the reciprocal rank, cut off at n. int64 [U] -> float32 [U]."""
    return _hit(rank, n) / rank.clamp(min=1).float()


def coverage(items: Tensor, item_count: int) -> float:
    """The share of items 1..item_count that occur in any list; 0 when all slots are empty. int64 [U, n] -> [0, 1]."""
    return float((_counts(items, item_count) > 0).double().mean())


def gini(items: Tensor, item_count: int) -> float:
    """How unequally recommendations fall on the catalog, items that are never recommended included. int64 [U, n] -> [0, 1).

    With the counts c_1 <= ... <= c_N: sum_i (2i - N - 1) c_i / (N sum_i c_i). 0 when all items are recommended equally often,
    which includes lists that are all empty; (N - 1) / N when only one item ever is.
    """
    counts = _counts(items, item_count).double().sort().values
    weights = 2 * torch.arange(1, item_count + 1) - item_count - 1
    return float((weights * counts).sum() / (item_count * counts.sum()).clamp(min=1))


def entropy(items: Tensor, item_count: int) -> float:
    """- sum_i p_i ln p_i in nats, p_i the share of the filled slots that item i has; 0 when all slots are empty. int64 [U, n]."""
    counts = _counts(items, item_count).double()
    return float(torch.special.entr(counts / counts.sum().clamp(min=1)).sum())


def div_ratio(items: Tensor, item_count: int) -> float:
    """DivRatio@n: distinct recommended items / all U n slots, empty ones included. int64 [U, n] -> [0, 1]."""
    return float((_counts(items, item_count) > 0).double().sum()) / items.numel()


def or_ratio(items: Tensor, item_count: int) -> float:
    """ORRatio@n: the share of all U n slots that the three most recommended items take. int64 [U, n] -> [0, 1]."""
    counts = _counts(items, item_count)
    return float(counts.topk(min(3, item_count)).values.sum()) / items.numel()


def average_popularity(items: Tensor, popularity: Tensor) -> float:
    """The mean training count of the items in filled slots; 0 when all slots are empty.

    Lists int64 [U, n]; `popularity` int64 [N + 1], row 0 is no item.
    """
    counts = _counts(items, len(popularity) - 1).double()
    return float((counts * popularity[1:]).sum() / counts.sum().clamp(min=1))


def _hit(rank: Tensor, n: int) -> Tensor:
    """Bool [U]: 1 <= rank <= n."""
    if n < 1:
        raise UsageError(f"a cut-off must be at least 1, got {n}")
    if rank.is_floating_point() or rank.dtype == torch.bool:
        raise InputError(f"ranks must be integers, 1-based with 0 for a miss, got {rank.dtype}")
    if rank.numel() and int(rank.min()) < 0:
        raise InputError(f"ranks must be 1-based with 0 for a miss, got {int(rank.min())}")
    return (rank >= 1) & (rank <= n)


def _counts(items: Tensor, item_count: int) -> Tensor:
    """How often each of items 1..item_count is recommended, int64 [N]."""
    if items.ndim != 2 or items.numel() == 0:
        raise InputError(f"lists must be items [users, n] with at least one slot, got shape {tuple(items.shape)}")
    if item_count < 1 or int(items.min()) < 0 or int(items.max()) > item_count:
        raise InputError(f"recommended items must lie in 0..{item_count}, got {int(items.min())}..{int(items.max())}")
    return torch.bincount(items.flatten(), minlength=item_count + 1)[1:]
