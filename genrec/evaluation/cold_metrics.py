"""Cold-start metrics: recall and NDCG for targets without a training interaction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
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
    values = cold_values(ranks, cutoffs, popularity)
    if not values:
        return {}
    counts = {"cold_users": float(_is_cold(ranks, popularity).sum()), "cold_items": float((popularity[1:] == 0).sum())}
    return counts | {name: float(each[~each.isnan()].mean()) for name, each in values.items()}


def cold_values(ranks: DataFrame, cutoffs: Sequence[int], popularity: Tensor) -> dict[str, Tensor]:
    """Return cold_recall@n and cold_ndcg@n of each user, float64 [U], NaN where the target is not cold; empty if no target is."""
    cold = _is_cold(ranks, popularity)
    if not bool(cold.any()):
        return {}
    return {name: values.masked_fill(~cold, torch.nan) for name, values in _values("cold", ranks, cutoffs).items()}


def cold_only_metrics(ranks: DataFrame, cutoffs: Sequence[int]) -> dict[str, float]:
    """Return cold_only_recall@n and cold_only_ndcg@n: metrics of the ranking among cold items alone (see `cold_ranking`)."""
    return {name: float(values.mean()) for name, values in _values("cold_only", ranks, cutoffs).items()}


def _is_cold(ranks: DataFrame, popularity: Tensor) -> Tensor:
    """Return whether each user's target has no training interaction, bool [U]."""
    return popularity.cpu()[torch.from_numpy(ranks["target"].to_numpy(dtype=np.int64, copy=True))] == 0


def _values(prefix: str, ranks: DataFrame, cutoffs: Sequence[int]) -> dict[str, Tensor]:
    chosen = (metrics.recall, metrics.ndcg)
    return {f"{prefix}_{metric.__name__}@{n}": per_user(metric, ranks, n) for n in cutoffs for metric in chosen}
