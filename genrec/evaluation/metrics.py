"""Metrics: recall, NDCG and MRR of one target per user, and coverage, Gini, entropy and other metrics of recommendation lists.

Ranking metrics (each a `genrec.types.Metric`) map ranks int64 [U], 1-based with 0 for a miss, to one value per user, float32 [U].
Take their mean over users in float64. List metrics map lists int64 [U, n], best item first and 0 for an empty slot, to one number.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genrec.errors import InputError, UsageError


def recall(rank: Tensor, n: int) -> Tensor:
    """Return 1 if 1 <= rank <= n, else 0. With one target per user this is also the hit rate. int64 [U] -> float32 [U]."""
    return _hit(rank, n).float()


def ndcg(rank: Tensor, n: int) -> Tensor:
    """Return 1 / log2(rank + 1) if 1 <= rank <= n, else 0. The ideal list has the only target first, so the ideal DCG is 1.

    int64 [U] -> float32 [U]. Source: Järvelin & Kekäläinen 2002, with the discount log2(rank + 1).
    """
    return _hit(rank, n) / torch.log2(rank.clamp(min=1) + 1.0)


def mrr(rank: Tensor, n: int) -> Tensor:
    """Return 1 / rank if 1 <= rank <= n, else 0: the reciprocal rank with cut-off n. int64 [U] -> float32 [U]."""
    return _hit(rank, n) / rank.clamp(min=1).float()


def coverage(items: Tensor, item_count: int) -> float:
    """Return the share of items 1..item_count that occur in any list; 0 if all slots are empty. int64 [U, n] -> [0, 1]."""
    return float((_counts(items, item_count) > 0).double().mean())


def gini(items: Tensor, item_count: int) -> float:
    """Return the Gini coefficient of the recommendation counts of all catalog items. int64 [U, n] -> [0, 1).

    With counts c_1 <= ... <= c_N it is sum_i (2i - N - 1) c_i / (N sum_i c_i). It is 0 if all items are recommended equally often
    or all slots are empty, and (N - 1) / N if a single item is recommended.
    """
    counts = _counts(items, item_count).double().sort().values
    weights = 2 * torch.arange(1, item_count + 1) - item_count - 1
    return float((weights * counts).sum() / (item_count * counts.sum()).clamp(min=1))


def entropy(items: Tensor, item_count: int) -> float:
    """Return - sum_i p_i ln p_i in nats, p_i the share of filled slots that hold item i; 0 if all slots are empty. int64 [U, n]."""
    counts = _counts(items, item_count).double()
    return float(torch.special.entr(counts / counts.sum().clamp(min=1)).sum())


def div_ratio(items: Tensor, item_count: int) -> float:
    """Return DivRatio@n: distinct recommended items / (U n) slots, with empty slots counted. int64 [U, n] -> [0, 1]."""
    return float((_counts(items, item_count) > 0).double().sum()) / items.numel()


def or_ratio(items: Tensor, item_count: int) -> float:
    """Return ORRatio@n: the share of all U n slots that hold one of the three most recommended items. int64 [U, n] -> [0, 1]."""
    counts = _counts(items, item_count)
    return float(counts.topk(min(3, item_count)).values.sum()) / items.numel()


def average_popularity(items: Tensor, popularity: Tensor) -> float:
    """Return the mean number of training interactions of the items in filled slots; 0 if all slots are empty.

    `items` int64 [U, n]; `popularity` int64 [N + 1], entry 0 belongs to no item.
    """
    counts = _counts(items, len(popularity) - 1).double()
    return float((counts * popularity[1:]).sum() / counts.sum().clamp(min=1))


def _hit(rank: Tensor, n: int) -> Tensor:
    """Return 1 <= rank <= n, bool [U], after checking the arguments."""
    if n < 1:
        raise UsageError(f"the cut-off n must be at least 1, got {n}")
    if rank.is_floating_point() or rank.dtype == torch.bool:
        raise InputError(f"ranks must be integers, 1-based with 0 for a miss, got {rank.dtype}")
    if rank.numel() and int(rank.min()) < 0:
        raise InputError(f"ranks must be 1-based with 0 for a miss, got {int(rank.min())}")
    return (rank >= 1) & (rank <= n)


def _counts(items: Tensor, item_count: int) -> Tensor:
    """Return how often each of items 1..item_count is recommended, int64 [N]."""
    if items.ndim != 2 or items.numel() == 0:
        raise InputError(f"lists must have shape [users, n] with at least one slot, got shape {tuple(items.shape)}")
    if item_count < 1 or int(items.min()) < 0 or int(items.max()) > item_count:
        raise InputError(f"recommended items must lie in 0..{item_count}, got {int(items.min())}..{int(items.max())}")
    return torch.bincount(items.flatten(), minlength=item_count + 1)[1:]
