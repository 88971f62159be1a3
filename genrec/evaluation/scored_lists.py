"""Stage 6: one batch of lists, checked and scored, slot by slot.

In: a recommender's `Ranking`, and what was held out. Out: the target's rank, and the lists without what does not count. An empty
slot (item 0) and an item that the list already had are invalid: they keep their slot, so nothing behind them moves up, and become 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from genrec.errors import InputError, NumericsError
from genrec.evaluation.shared_id_ties import places
from genrec.item_rows import contains, repeated
from genrec.types import Ranking, SequenceBatch


class ScoredLists(NamedTuple):
    """A batch's outcome, on the CPU."""

    user: Tensor  # int64 [B]
    target: Tensor  # int64 [B]
    rank: Tensor  # int64 [B]  the target's slot, 1-based; 0 = missed; one of several where its Semantic ID is shared (see `ties`)
    items: Tensor  # int64 [B, n]  0 where the slot is invalid
    scores: Tensor  # float32 [B, n]
    excluded: Tensor  # bool [B]  whether the target was among the items that must not be recommended
    first: Tensor  # int64 [B]  slot of the first item with the target's Semantic ID; the target's own where none is shared
    ties: Tensor  # int64 [B]  how many items share it, 1 or more
    sid_rank: Tensor  # int64 [B]  its place among the list's Semantic IDs


def score_lists(batch: SequenceBatch, ranking: Ranking, n: int, exclude: Tensor | None, shared: Tensor | None = None) -> ScoredLists:
    """The rank of each target in lists of `n` slots; `exclude` int64 [B, E] is what the recommender had to leave out.

    `shared` int64 [N + 1] is given where several items may have one Semantic ID: the number of each item's.
    """
    user, target = batch.user.cpu(), batch.target.cpu()
    items, scores = ranking.items.cpu(), ranking.scores.cpu().float()
    _check(user, items, scores, n)
    excluded = torch.zeros(len(user), dtype=torch.bool)
    forbidden = None if exclude is None else exclude.cpu()
    if forbidden is not None:
        held = _held(forbidden, torch.cat([target.unsqueeze(1), items], 1))
        excluded = held[:, 0]
        _check_excluded(user, items, held[:, 1:])
    items = items.masked_fill(repeated(items), 0)
    if shared is None:
        hit = items == target.unsqueeze(1)
        rank = torch.where(hit.any(1), hit.int().argmax(1) + 1, 0)
        return ScoredLists(user, target, rank, items, scores, excluded, rank, torch.ones_like(rank), rank)
    found = places(user, target, items, shared, forbidden)
    rank, first, sid_rank = (place.masked_fill(excluded, 0) for place in (found.rank, found.first, found.sid_rank))
    return ScoredLists(user, target, rank, items, scores, excluded, first, found.ties, sid_rank)


def _held(forbidden: Tensor, items: Tensor) -> Tensor:
    """`contains`; long rows, as of a catalog without its unseen items, are marked instead of sorted."""
    largest = max(int(items.max()), int(forbidden.max()) if forbidden.numel() else 0)
    if 8 * forbidden.shape[1] < largest:
        return contains(forbidden, items)
    marked = torch.zeros(len(forbidden), largest + 1, dtype=torch.bool).scatter_(1, forbidden, True)
    return marked.gather(1, items) & (items > 0)


def _check(user: Tensor, items: Tensor, scores: Tensor, n: int) -> None:
    expected = (len(user), n)
    if tuple(items.shape) != expected or tuple(scores.shape) != expected:
        raise InputError(
            f"recommend must return items and scores of shape {expected}, filled up with item 0 where there are fewer; "
            f"got {tuple(items.shape)} and {tuple(scores.shape)}"
        )
    if items.dtype != torch.int64:
        raise InputError(f"recommend must return int64 items, got {items.dtype}")
    if int(items.min()) < 0:
        raise InputError(f"recommend returned item {int(items.min())}; items are 1 or more, 0 for none")
    bad = scores.isnan().any(1)
    if bool(bad.any()):
        raise NumericsError(f"recommend returned NaN scores for user {int(user[bad][0])} and {int(bad.sum()) - 1} more of its batch")


def _check_excluded(user: Tensor, items: Tensor, broken: Tensor) -> None:
    if bool(broken.any()):
        row, slot = (int(place[0]) for place in broken.nonzero(as_tuple=True))
        raise InputError(
            f"recommend returned item {int(items[row, slot])} to user {int(user[row])} though `exclude` holds it; "
            "a recommender must leave out what is excluded"
        )
