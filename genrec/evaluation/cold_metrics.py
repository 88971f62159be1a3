"""Cold-start metrics: recall and NDCG for targets without a training interaction."""

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
    """Return the expectation of a metric when `items` items are in random order. For recall it is min(1, n / items)."""
    return float(metric(torch.arange(1, items + 1), n).double().mean())


def cold_metrics(ranks: DataFrame, cutoffs: Sequence[int], popularity: Tensor) -> dict[str, float]:
    """Return metrics of cold targets in the ranking of all items, or an empty dictionary if no target is cold.

    A cold item has no training interaction; `popularity` int64 [N + 1] counts them. The keys are cold_users, cold_items (the number
    of cold items in the catalog), cold_recall@n and cold_ndcg@n.
    """
    cold: ndarray = popularity.numpy()[ranks["target"].to_numpy(dtype=np.int64)] == 0
    if not cold.any():
        return {}
    counts = {"cold_users": float(cold.sum()), "cold_items": float((popularity[1:] == 0).sum())}
    return counts | _means("cold", ranks[cold], cutoffs)


def cold_only_metrics(ranks: DataFrame, cutoffs: Sequence[int]) -> dict[str, float]:
    """Return cold_only_recall@n and cold_only_ndcg@n: metrics of the ranking among cold items alone (see `cold_ranking`)."""
    return _means("cold_only", ranks, cutoffs)


def _means(prefix: str, ranks: DataFrame, cutoffs: Sequence[int]) -> dict[str, float]:
    chosen = (metrics.recall, metrics.ndcg)
    return {f"{prefix}_{metric.__name__}@{n}": float(per_user(metric, ranks, n).mean()) for n in cutoffs for metric in chosen}
