"""Metrics as `torchmetrics.Metric` classes, for training loops of your own, such as a LightningModule under several processes.

They compute what `genrec.evaluation.metrics` computes, from the same functions. `compute` takes the rows of all processes and all
batches together: the mean is over users, never over batches or processes.

`update(rank)` counts every row, `update(rank, user)` a user once, by the mean over its rows or by its first list
(of the first process): users who are repeated, such as those that pad a shard of a `DistributedSampler`, add nothing.

Ranks are int64 [B], 1-based with 0 for a miss, users int64 [B], 0 or more, and lists int64 [B, m], best item first and 0 for an empty
slot. The ranking metrics also take `update(items=lists, target=targets)`. `compute` returns float64 []. All rows are kept until
`reset`: 16 bytes a rank, 8 (n + 1) bytes a list. Items that share a Semantic ID tie: use `genrec.evaluation.shared_id_ties.per_user`.

Where scores are above 0 and distinct, the results equal those of torchmetrics' `RetrievalHitRate`, `RetrievalNormalizedDCG` and
`RetrievalMRR` with `top_k`. Its MRR, MAP, recall and precision (version 1.9.0) count no item with a log-probability as its score.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors

from genrec.errors import InputError, UsageError
from genrec.evaluation import metrics
from genrec.types import Metric as RankingMetric

NO_USER = -1  # stored as the user of a row that was given without one


class Recall(Metric):
    """Recall@n, with one target per user also the hit rate: `genrec.evaluation.metrics.recall`, mean over users.

    Example: after `metric = Recall(10)` and `metric.update(torch.tensor([1, 3, 0, 12]))`, `metric.compute()` is 2 / 4.

    Args:
        n: the cut-off, 1 or more.
        settings: arguments of `torchmetrics.Metric`, such as `sync_on_compute` or `dist_sync_on_step`.

    """

    is_differentiable, higher_is_better, full_state_update = False, True, False
    rank: list[Tensor]
    user: list[Tensor]

    def __init__(self, n: int, **settings: Any) -> None:
        super().__init__(**_synchronized(settings))
        self.n = _checked_cutoff(n)
        _add_states(self, "rank", "user")

    def update(
        self, rank: Tensor | None = None, user: Tensor | None = None, items: Tensor | None = None, target: Tensor | None = None
    ) -> None:
        """Add rows by `rank` int64 [B], or by lists `items` int64 [B, m] and `target` int64 [B]; `user` int64 [B] is optional."""
        _add_ranks(self, rank, user, items, target)

    def compute(self) -> Tensor:
        """Return the mean over the users of all processes since the last `reset`, float64 []."""
        return _mean_over_users(metrics.recall, self)


class NDCG(Metric):
    """NDCG@n of one target per user: `genrec.evaluation.metrics.ndcg`, mean over users.

    Example: after `metric = NDCG(10)` and `metric.update(torch.tensor([1, 3, 0, 12]))`, `metric.compute()` is (1 + 0.5) / 4.

    Args:
        n: the cut-off, 1 or more.
        settings: arguments of `torchmetrics.Metric`, such as `sync_on_compute` or `dist_sync_on_step`.

    """

    is_differentiable, higher_is_better, full_state_update = False, True, False
    rank: list[Tensor]
    user: list[Tensor]

    def __init__(self, n: int, **settings: Any) -> None:
        super().__init__(**_synchronized(settings))
        self.n = _checked_cutoff(n)
        _add_states(self, "rank", "user")

    def update(
        self, rank: Tensor | None = None, user: Tensor | None = None, items: Tensor | None = None, target: Tensor | None = None
    ) -> None:
        """Add rows by `rank` int64 [B], or by lists `items` int64 [B, m] and `target` int64 [B]; `user` int64 [B] is optional."""
        _add_ranks(self, rank, user, items, target)

    def compute(self) -> Tensor:
        """Return the mean over the users of all processes since the last `reset`, float64 []."""
        return _mean_over_users(metrics.ndcg, self)


class MRR(Metric):
    """The reciprocal rank with cut-off n: `genrec.evaluation.metrics.mrr`, mean over users.

    Example: after `metric = MRR(10)` and `metric.update(torch.tensor([1, 3, 0, 12]))`, `metric.compute()` is (1 + 1/3) / 4.

    Args:
        n: the cut-off, 1 or more.
        settings: arguments of `torchmetrics.Metric`, such as `sync_on_compute` or `dist_sync_on_step`.

    """

    is_differentiable, higher_is_better, full_state_update = False, True, False
    rank: list[Tensor]
    user: list[Tensor]

    def __init__(self, n: int, **settings: Any) -> None:
        super().__init__(**_synchronized(settings))
        self.n = _checked_cutoff(n)
        _add_states(self, "rank", "user")

    def update(
        self, rank: Tensor | None = None, user: Tensor | None = None, items: Tensor | None = None, target: Tensor | None = None
    ) -> None:
        """Add rows by `rank` int64 [B], or by lists `items` int64 [B, m] and `target` int64 [B]; `user` int64 [B] is optional."""
        _add_ranks(self, rank, user, items, target)

    def compute(self) -> Tensor:
        """Return the mean over the users of all processes since the last `reset`, float64 []."""
        return _mean_over_users(metrics.mrr, self)


class Coverage(Metric):
    """The share of the catalog that occurs in the first n items of any list: `genrec.evaluation.metrics.coverage`."""

    is_differentiable, higher_is_better, full_state_update = False, True, False
    items: list[Tensor]
    user: list[Tensor]

    def __init__(self, n: int, item_count: int, **settings: Any) -> None:
        super().__init__(**_synchronized(settings))
        self.n, self.item_count = _checked_cutoff(n), item_count
        _add_states(self, "items", "user")

    def update(self, items: Tensor, user: Tensor | None = None) -> None:
        """Add lists int64 [B, m] of items 1..item_count; `user` int64 [B] is optional."""
        _add_lists(self, items, user, self.item_count)

    def compute(self) -> Tensor:
        """Return the metric of the lists of all processes since the last `reset`, float64 []."""
        return _number(metrics.coverage(_lists_of_users(self), self.item_count), self)


class Gini(Metric):
    """The Gini coefficient of the counts in the first n items of all lists: `genrec.evaluation.metrics.gini`."""

    is_differentiable, higher_is_better, full_state_update = False, False, False
    items: list[Tensor]
    user: list[Tensor]

    def __init__(self, n: int, item_count: int, **settings: Any) -> None:
        super().__init__(**_synchronized(settings))
        self.n, self.item_count = _checked_cutoff(n), item_count
        _add_states(self, "items", "user")

    def update(self, items: Tensor, user: Tensor | None = None) -> None:
        """Add lists int64 [B, m] of items 1..item_count; `user` int64 [B] is optional."""
        _add_lists(self, items, user, self.item_count)

    def compute(self) -> Tensor:
        """Return the metric of the lists of all processes since the last `reset`, float64 []."""
        return _number(metrics.gini(_lists_of_users(self), self.item_count), self)


class AveragePopularity(Metric):
    """The mean number of training events of the first n items: `genrec.evaluation.metrics.average_popularity`.

    `popularity` int64 [N + 1] is the number of training events of each item; entry 0 belongs to no item.
    """

    is_differentiable, higher_is_better, full_state_update = False, None, False
    items: list[Tensor]
    user: list[Tensor]

    def __init__(self, n: int, popularity: Tensor, **settings: Any) -> None:
        super().__init__(**_synchronized(settings))
        self.n, self.popularity = _checked_cutoff(n), popularity.cpu()
        _add_states(self, "items", "user")

    def update(self, items: Tensor, user: Tensor | None = None) -> None:
        """Add lists int64 [B, m] of items 1..N; `user` int64 [B] is optional."""
        _add_lists(self, items, user, len(self.popularity) - 1)

    def compute(self) -> Tensor:
        """Return the metric of the lists of all processes since the last `reset`, float64 []."""
        return _number(metrics.average_popularity(_lists_of_users(self), self.popularity), self)


def gather_integers(values: Tensor, group: Any = None) -> list[Tensor]:
    """Gather int64 values of all processes. One without a row has an empty tensor of another dtype, which torchmetrics cannot join."""
    gathered: list[Tensor] = gather_all_tensors(values.long(), group)
    return gathered


def rank_in_list(items: Tensor, target: Tensor) -> Tensor:
    """Return the 1-based place of each target in its list, 0 where it is missing: int64 [B, m], int64 [B] -> int64 [B]."""
    if items.ndim != 2 or items.shape[:1] != target.shape:
        raise InputError(f"items must be [B, m] and target [B], got {list(items.shape)} and {list(target.shape)}")
    if target.numel() and int(target.min()) < 1:
        raise InputError(f"a target must be an item, 1 or more, got {int(target.min())}")
    hit = items == target.unsqueeze(1)
    place = pad(hit, (0, 1), value=True).int().argmax(1)  # of the first hit; m without one
    return torch.where(place < items.shape[1], place + 1, 0)


def _synchronized(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a `torchmetrics.Metric` with `gather_integers`, unless they have a function of their own."""
    return {"dist_sync_fn": gather_integers} | settings


def _checked_cutoff(n: int) -> int:
    if n < 1:
        raise UsageError(f"the cut-off n must be at least 1, got {n}")
    return n


def _add_states(metric: Metric, *names: str) -> None:
    """Add states that are concatenated over batches and processes. Each is flat: rows of one width, in the order of the updates."""
    for name in names:
        metric.add_state(name, default=[], dist_reduce_fx="cat")


def _add_ranks(
    metric: Recall | NDCG | MRR, rank: Tensor | None, user: Tensor | None, items: Tensor | None, target: Tensor | None
) -> None:
    """Add rows to a ranking metric. Raise an error here, in the update that has the wrong input."""
    given = {name for name, value in (("rank", rank), ("items", items), ("target", target)) if value is not None}
    if rank is None and items is not None and target is not None:
        rank = rank_in_list(items, target)
    elif rank is None or given != {"rank"}:
        raise UsageError(f"update takes either rank, or items and target; got {', '.join(sorted(given)) or 'none of them'}")
    if rank.ndim != 1:
        raise InputError(f"ranks must be int64 [B], got shape {list(rank.shape)}")
    metrics.recall(rank, metric.n)  # checks the ranks
    metric.user.append(_users(user, rank))
    metric.rank.append(rank.long())


def _add_lists(metric: Coverage | Gini | AveragePopularity, items: Tensor, user: Tensor | None, item_count: int) -> None:
    """Add the first n items of each list to a list metric, with 0 in the slots that a shorter list lacks."""
    if items.ndim != 2 or items.is_floating_point():
        raise InputError(f"lists must be int64 [B, m], got {items.dtype} {list(items.shape)}")
    if items.numel() and not 0 <= int(items.min()) <= int(items.max()) <= item_count:
        raise InputError(f"recommended items must lie in 0..{item_count}, got {int(items.min())}..{int(items.max())}")
    metric.user.append(_users(user, items[:, :0].sum(1)))
    first = items[:, : metric.n].long()
    metric.items.append(pad(first, (0, metric.n - first.shape[1])).flatten())


def _users(user: Tensor | None, rows: Tensor) -> Tensor:
    """Return the users of rows [B], int64 [B]; `NO_USER` where none is given."""
    if user is None:
        return torch.full_like(rows, NO_USER, dtype=torch.int64)
    if user.shape != rows.shape or user.is_floating_point() or (user.numel() and int(user.min()) < 0):
        lowest = f", the lowest {user.min().item()}" if user.numel() else ""
        raise InputError(f"users must be int64 {list(rows.shape)}, 0 or more, got {user.dtype} {list(user.shape)}{lowest}")
    return user.long().to(rows.device)


def _stored_users(user: list[Tensor]) -> Tensor | None:
    """Return the users of all rows, int64 [R]; None if the rows have no users. Raise InputError for no rows, and for a mixture."""
    users = dim_zero_cat(user) if len(user) else torch.empty(0)
    if not users.numel():
        raise InputError("there are no users to average: call update with at least one row before compute")
    without = users == NO_USER
    if bool(without.any()) and not bool(without.all()):
        raise InputError(
            f"{int(without.sum())} of {len(users)} rows have no user: give `user` in every update, in all processes, or in none"
        )
    return None if bool(without.all()) else users


def _mean_over_users(function: RankingMetric, metric: Recall | NDCG | MRR) -> Tensor:
    """Return the mean over users of each user's mean, float64 []."""
    users = _stored_users(metric.user)
    values = function(dim_zero_cat(metric.rank), metric.n).double()
    if users is None:
        return values.mean()
    found, number, count = torch.unique(users, return_inverse=True, return_counts=True)
    mean: Tensor = values.new_zeros(len(found)).index_add_(0, number, values) / count
    return mean.mean()


def _lists_of_users(metric: Coverage | Gini | AveragePopularity) -> Tensor:
    """Return one list per user, int64 [U, n], on the CPU."""
    users = _stored_users(metric.user)
    lists = dim_zero_cat(metric.items).reshape(-1, metric.n).cpu()
    if users is None:
        return lists
    ordered, place = users.cpu().sort(stable=True)
    return lists[place[pad(ordered.diff() > 0, (1, 0), value=True)]]


def _number(value: float, metric: Metric) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, device=metric.device)
