"""Metrics for Semantic IDs that several items share: expectations over the order of tied items.

The G items with the same Semantic ID have the same score, so their order in a list is arbitrary. If they fill the slots from `first`
on, the target is in each of the slots first .. first + G - 1 with probability 1/G. A metric is the exact mean over these slots, not
the value of one random order. The rank of the Semantic ID itself is reported separately (`sid_rank`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from pandas import DataFrame
from torch import Tensor
from torch.nn.functional import pad

from genrec.errors import InputError
from genrec.evaluation import metrics
from genrec.item_rows import repeated
from genrec.randomness import splitmix64
from genrec.types import Metric

COLUMNS = ("first", "ties", "sid_rank")  # additional columns of ranks if Semantic IDs are shared


class Places(NamedTuple):
    """The position of each user's target in the list, among items and among Semantic IDs."""

    first: Tensor  # int64 [B]  slot of the first item with the target's Semantic ID, 1-based; 0 = missed
    ties: Tensor  # int64 [B]  G, the items with this Semantic ID that are not excluded, 1 or more
    sid_rank: Tensor  # int64 [B]  rank of the Semantic ID among the distinct ones of the list; 0 = missed
    rank: Tensor  # int64 [B]  one of the G slots, a fixed function of user and target; 0 = missed or behind the list


def check_shared(shared: Tensor) -> None:
    """Raise InputError unless `shared` holds the number of each item's Semantic ID."""
    if shared.ndim != 1 or shared.dtype != torch.int64 or len(shared) < 2 or int(shared[0]) != 0 or int(shared[1:].min()) < 1:
        raise InputError(
            "shared must be int64 [items + 1], the number of each item's Semantic ID, 1 or more, and 0 for row 0; "
            f"got {shared.dtype} {tuple(shared.shape)}"
        )


def places(user: Tensor, target: Tensor, items: Tensor, shared: Tensor, exclude: Tensor | None) -> Places:
    """Return the positions of the targets in lists `items` int64 [B, n], 0 for an invalid slot.

    `user` and `target` int64 [B]; `shared` int64 [N + 1], the number of each item's Semantic ID; `exclude` int64 [B, E]. An invalid
    slot keeps its position among Semantic IDs as it does among items.
    """
    largest = max(int(target.max()), int(items.max()))
    if largest >= len(shared):
        raise InputError(f"items must lie in 1..{len(shared) - 1}, the items with a Semantic ID, got {largest}")
    listed, wanted = shared[items], shared[target]
    hit = listed == wanted.unsqueeze(1)  # never at an invalid slot: its number is 0, and no target has 0
    found, slot = hit.any(1), hit.int().argmax(1)
    place = (~repeated(listed) | (items == 0)).long().cumsum(1).gather(1, slot.unsqueeze(1)).squeeze(1)
    first, sid_rank = torch.where(found, slot + 1, 0), torch.where(found, place, 0)
    ties = torch.bincount(shared)[wanted]
    if exclude is not None:
        ties = (ties - _excluded(exclude, shared, wanted)).clamp(min=1)
    rank = first + _draw(user, target, ties)
    return Places(first, ties, sid_rank, torch.where(found & (rank <= items.shape[1]), rank, 0))


def _excluded(exclude: Tensor, shared: Tensor, wanted: Tensor) -> Tensor:
    """Return how many distinct excluded items of each row have the target's Semantic ID, int64 [B]."""
    row, column = (shared[exclude] == wanted.unsqueeze(1)).nonzero(as_tuple=True)
    pair = torch.unique(row * len(shared) + exclude[row, column])
    return torch.bincount(pair // len(shared), minlength=len(wanted))


def _draw(user: Tensor, target: Tensor, ties: Tensor) -> Tensor:
    """Return a pseudo-random number in 0 .. ties - 1, int64 [B], a hash of user and target."""
    state = user.numpy().astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + target.numpy().astype(np.uint64)
    return torch.from_numpy((splitmix64(state) % ties.numpy().astype(np.uint64)).astype(np.int64))


def semantic_id_values(ranks: DataFrame, cutoffs: Sequence[int]) -> dict[str, Tensor]:
    """Return sid_recall@n and sid_ndcg@n, metrics of the rank of the target's Semantic ID, float64 [U]; empty if none is shared."""
    if "sid_rank" not in ranks:
        return {}
    rank, chosen = _column(ranks, "sid_rank"), (metrics.recall, metrics.ndcg)
    return {f"sid_{metric.__name__}@{n}": metric(rank, n).double() for n in cutoffs for metric in chosen}


def per_user(metric: Metric, ranks: DataFrame, n: int) -> Tensor:
    """Return a metric at cut-off n for every row of `ranks`, float64 [U]: its mean over the possible slots of the target.

    Args:
        metric: a function of ranks int64 [B] and n to values [B], such as `genrec.evaluation.metrics.ndcg` (`genrec.types.Metric`).
        ranks: `Evaluation.ranks`. Without the columns `first` and `ties` the target has one slot, its rank.
        n: the cut-off, 1 or more.

    Raises InputError if `ties` has a number below 1.

    """
    if "ties" not in ranks:
        return metric(_column(ranks, "rank"), n).double()
    first, ties = _column(ranks, "first"), _column(ranks, "ties")
    if bool((ties < 1).any()):
        raise InputError(f"ties must be 1 or more, the number of items with the Semantic ID, got ties {int(ties.min())}")
    alone = metric(first, n).double()
    until = pad(metric(torch.arange(1, n + 1), n).double().cumsum(0), (1, 0))  # entry i: sum of the metric over slots 1 .. i
    total = until[(first + ties - 1).clamp(max=n)] - until[(first - 1).clamp(min=0, max=n)]
    return torch.where((ties == 1) | (first == 0), alone, total / ties)


def _column(ranks: DataFrame, name: str) -> Tensor:
    return torch.from_numpy(ranks[name].to_numpy(dtype=np.int64, copy=True))
