"""Cold-start ranking: rank the targets without a training interaction among the items without one.

In the ranking of all items, cold items compete with all others. Among cold items alone, the ranking shows whether a recommender can
tell them apart at all. The metrics of a random order are known exactly for this ranking: `cold_metrics.chance`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from pandas import DataFrame
from torch import Tensor

from genrec.errors import InputError
from genrec.evaluation.evaluate import Evaluate, Seen, evaluate
from genrec.own_ids import OwnIds
from genrec.progress import say
from genrec.types import Recommender, SequenceBatch
from genrec.types.event_history import joined_rows, padded

EXCLUDE_BYTES = 200 * 2**20  # memory for the excluded items of one batch of users


def evaluate_unseen(
    recommender: Recommender,
    batches: Iterable[SequenceBatch],
    spec: Evaluate,
    popularity: Tensor,
    seen: Seen | None = None,
    shared: Tensor | None = None,
    own_ids: OwnIds | None = None,
) -> DataFrame:
    """Rank each cold target among the cold items, and return the table `ranks` of `evaluate` for these users.

    `popularity` int64 [N + 1] is the number of training interactions of each item. Items with one or more are excluded, and with
    `filter_seen` the items that the user has already taken. For `seen`, `shared` and `own_ids` see `evaluate`.
    """
    known = popularity[1:].nonzero().squeeze(1) + 1
    size = min(spec.batch_size, max(1, EXCLUDE_BYTES // (8 * max(1, len(known)))))
    if 8 * len(known) > EXCLUDE_BYTES:
        say(
            f"evaluate: excluding the {len(known)} items with training interactions takes {8 * len(known) >> 20} MB per user; users "
            "are ranked one at a time"
        )
    batch = _cold_users(batches, popularity)
    cold = len(popularity) - 1 - len(known)
    say(announcement(len(batch.user), cold))

    def exclude(users: Tensor) -> Tensor:
        rows = known.to(users.device).expand(len(users), -1)
        return torch.cat([rows, seen(users)], 1) if spec.filter_seen and seen is not None else rows.contiguous()

    return evaluate(
        recommender, _chunks(batch, size), replace(spec, filter_seen=True, batch_size=size), exclude, shared, own_ids
    ).ranks


def _cold_users(batches: Iterable[SequenceBatch], popularity: Tensor) -> SequenceBatch:
    """Return the users with a cold target (no training interaction), as one batch."""
    parts = []
    for batch in batches:
        chosen = popularity[batch.target.cpu()] == 0
        if bool(chosen.any()):
            parts.append(SequenceBatch(*(column[chosen.to(column.device)] for column in batch)))
    if not parts:
        raise InputError("no user's target is unseen in training, so there is nothing to rank among unseen items")
    longest = max(part.history.shape[1] for part in parts)
    parts = [part._replace(history=padded(part.history, longest)) for part in parts]
    return SequenceBatch(*(joined_rows(column) for column in zip(*parts, strict=True)))


def _chunks(batch: SequenceBatch, size: int) -> Iterator[SequenceBatch]:
    for begin in range(0, len(batch.user), size):
        yield SequenceBatch(*(column[begin : begin + size] for column in batch))


def announcement(users: int, items: int) -> str:
    """Return the line about the second ranking: of `users` users, among the `items` items without training interactions."""
    targets = "the target of 1 user is" if users == 1 else f"the targets of {users} users are"
    among = "the only such item" if items == 1 else f"the {items} such items"
    return f"evaluate: {targets} unseen in training; ranking again among {among}"
