"""Checking and scoring of one batch of recommendation lists.

A slot is invalid if it is empty (item 0) or repeats an item of the same list. Invalid slots become 0 and keep their position, so the
items behind them do not move up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from pandas import DataFrame
from torch import Tensor

from genrec.errors import InputError, NumericsError, counted
from genrec.evaluation.shared_id_ties import places
from genrec.item_rows import contains, repeated
from genrec.own_ids import OwnIds, name_item, name_user
from genrec.plugin_source import name_with_place
from genrec.types import Ranking, Recommender, SequenceBatch, UserRecommender


class ScoredLists(NamedTuple):
    """The scored lists of a batch, on the CPU."""

    user: Tensor  # int64 [B]
    target: Tensor  # int64 [B]
    rank: Tensor  # int64 [B]  slot of the target, 1-based; 0 = missed; drawn among `ties` slots if its Semantic ID is shared
    items: Tensor  # int64 [B, n]  0 for an invalid slot
    scores: Tensor  # float32 [B, n]
    excluded: Tensor  # bool [B]  the target was excluded from the list
    first: Tensor  # int64 [B]  slot of the first item with the target's Semantic ID; equals `rank` if it is not shared
    ties: Tensor  # int64 [B]  number of items with this Semantic ID, 1 or more
    sid_rank: Tensor  # int64 [B]  rank of this Semantic ID among those of the list; 0 = missed


def recommend_batch(recommender: Recommender, batch: SequenceBatch, n: int, exclude: Tensor | None) -> Ranking:
    """Return the `n` best items of the users of a batch, by the user and the history if the recommender knows users."""
    if isinstance(recommender, UserRecommender):
        return recommender.recommend_to(batch.user, batch.history, n, exclude)
    return recommender.recommend(batch.history, n, exclude)


def score_lists(
    batch: SequenceBatch,
    ranking: Ranking,
    n: int,
    exclude: Tensor | None,
    shared: Tensor | None = None,
    own_ids: OwnIds | None = None,
) -> ScoredLists:
    """Return the rank of each target in lists of `n` slots. `exclude` int64 [B, E] holds the items excluded from each list.

    `shared` int64 [N + 1] gives the number of each item's Semantic ID if several items may share one, else it is None.

    Raises InputError if the ranking has a wrong form or holds an excluded item, and NumericsError if a score is NaN.
    """
    user, target = batch.user.cpu(), batch.target.cpu()
    if not isinstance(ranking, Ranking):
        raise InputError(f"recommend must return a genrec.types.Ranking, got {type(ranking).__name__}")
    items, scores = ranking.items.cpu(), ranking.scores.cpu().float()
    _check(user, items, scores, n, own_ids)
    excluded = torch.zeros(len(user), dtype=torch.bool)
    exclude = None if exclude is None else exclude.cpu()
    if exclude is not None:
        held = _contains(exclude, torch.cat([target.unsqueeze(1), items], 1))
        excluded = held[:, 0]
        _check_excluded(user, items, held[:, 1:], own_ids)
    items = items.masked_fill(repeated(items), 0)
    if shared is None:
        hit = items == target.unsqueeze(1)
        rank = torch.where(hit.any(1), hit.int().argmax(1) + 1, 0)
        return ScoredLists(user, target, rank, items, scores, excluded, rank, torch.ones_like(rank), rank)
    found = places(user, target, items, shared, exclude)
    rank, first, sid_rank = (place.masked_fill(excluded, 0) for place in (found.rank, found.first, found.sid_rank))
    return ScoredLists(user, target, rank, items, scores, excluded, first, found.ties, sid_rank)


@contextmanager
def naming(recommender: Recommender) -> Iterator[None]:
    """Put the recommender's class, and the line of a plug-in's, before the errors of `score_lists`."""
    try:
        yield
    except (InputError, NumericsError) as error:
        raise type(error)(f"{name_with_place(type(recommender))}: {error}") from None


def _contains(exclude: Tensor, items: Tensor) -> Tensor:
    """Return `contains(exclude, items)`. Long rows, such as most of the catalog, use a lookup table instead of sorting."""
    largest = max(int(items.max()), int(exclude.max()) if exclude.numel() else 0)
    if 8 * exclude.shape[1] < largest:
        return contains(exclude, items)
    marked = torch.zeros(len(exclude), largest + 1, dtype=torch.bool).scatter_(1, exclude, True)
    return marked.gather(1, items) & (items > 0)


def _check(user: Tensor, items: Tensor, scores: Tensor, n: int, own_ids: OwnIds | None) -> None:
    expected = (len(user), n)
    if tuple(items.shape) != expected or tuple(scores.shape) != expected:
        raise InputError(
            f"recommend must return items and scores of shape {expected}, padded with item 0 if there are fewer items; "
            f"got {tuple(items.shape)} and {tuple(scores.shape)}"
        )
    if items.dtype != torch.int64:
        raise InputError(f"recommend must return int64 items, got {items.dtype}")
    if int(items.min()) < 0:
        name = name_user(own_ids, int(user[(items < 0).any(1)][0]))
        raise InputError(f"recommend returned item {int(items.min())}; items are 1 or more, and 0 is an empty slot ({name})")
    bad = scores.isnan().any(1)
    if bool(bad.any()):
        name, more = name_user(own_ids, int(user[bad][0])), int(bad.sum()) - 1
        raise NumericsError(f"recommend returned NaN scores for {name} and {counted(more, 'more user')} of the batch")


def _check_excluded(user: Tensor, items: Tensor, broken: Tensor, own_ids: OwnIds | None) -> None:
    if bool(broken.any()):
        row, slot = (int(place[0]) for place in broken.nonzero(as_tuple=True))
        raise InputError(
            f"recommend returned item {name_item(own_ids, int(items[row, slot]))} to {name_user(own_ids, int(user[row]))} although it "
            "is in `exclude`; "
            "a recommender must leave out excluded items"
        )


def lists_of(ranks: DataFrame, recommendations: DataFrame, n: int) -> Tensor:
    """Return stored recommendations as lists int64 [U, n], users in the order of `ranks`, 0 for invalid slots."""
    if ranks.empty:
        raise InputError("there are no ranks to average: the table of ranks has no users")
    row = pd.Index(ranks["user"]).get_indexer(pd.Index(recommendations["user"]))
    if (row < 0).any():
        raise InputError(f"user {recommendations['user'].iloc[int(row.argmin())]} has recommendations but no rank")
    column = recommendations["position"].to_numpy(dtype=np.int64) - 1
    lists = np.zeros((len(ranks), n), dtype=np.int64)
    kept = column < n
    lists[row[kept], column[kept]] = recommendations["item"].to_numpy(dtype=np.int64)[kept]
    return torch.from_numpy(lists)
