"""Stage 6: items unseen in training (cold start), the figures. In: ranks, and the training events of each item. Out: how users whose
held-out item has no training event fared: in the full ranking, and in one of unseen items alone (see `cold_ranking`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy import ndarray
from pandas import DataFrame
from torch import Tensor

from genrec.evaluation import metrics
from genrec.evaluation.shared_id_ties import per_user
from genrec.types import Metric


def chance(metric: Metric, n: int, items: int) -> float:
    """The metric's expectation when `items` items are in random order: of recall, min(1, n / items)."""
    return float(metric(torch.arange(1, items + 1), n).double().mean())


def is_unseen(ranks: DataFrame, popularity: Tensor) -> ndarray:
    """Bool [U]: whether the target of each row has no training event."""
    unseen: ndarray = popularity.numpy()[ranks["target"].to_numpy(dtype=np.int64)] == 0
    return unseen


def cold_metrics(ranks: DataFrame, cutoffs: Sequence[int], popularity: Tensor) -> dict[str, float]:
    """Of the full ranking: cold_users, cold_items (items with no training event), cold_recall@n, cold_ndcg@n.

    Empty where every target has a training event.
    """
    unseen = is_unseen(ranks, popularity)
    if not unseen.any():
        return {}
    counts = {"cold_users": float(unseen.sum()), "cold_items": float((popularity[1:] == 0).sum())}
    return counts | _means("cold", ranks[unseen], cutoffs)


def cold_only_metrics(ranks: DataFrame, cutoffs: Sequence[int]) -> dict[str, float]:
    """Of the ranking of unseen items alone: cold_only_recall@n and cold_only_ndcg@n."""
    return _means("cold_only", ranks, cutoffs)


def _means(prefix: str, ranks: DataFrame, cutoffs: Sequence[int]) -> dict[str, float]:
    chosen = (metrics.recall, metrics.ndcg)
    return {f"{prefix}_{metric.__name__}@{n}": float(per_user(metric, ranks, n).mean()) for n in cutoffs for metric in chosen}
