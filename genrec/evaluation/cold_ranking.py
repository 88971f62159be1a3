"""Stage 6: items unseen in training (cold start), ranked alone. In: a recommender, batches of users, the training events of each item.
Out: the rank of every unseen target among the unseen items.

The full ranking says whether a recommender names unseen items against all that it has seen; this one, whether it can tell them apart
when it has to name some. Chance is known exactly for this one: `cold.chance`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from pandas import DataFrame
from torch import Tensor
from torch.nn.functional import pad

from genrec.errors import InputError
from genrec.evaluation.evaluate import Evaluate, Seen, evaluate
from genrec.progress import say
from genrec.types import Recommender, SequenceBatch

EXCLUDE_BYTES = 200 * 2**20  # of the excluded items of all users who are ranked at once


def evaluate_unseen(
    recommender: Recommender,
    batches: Iterable[SequenceBatch],
    spec: Evaluate,
    popularity: Tensor,
    seen: Seen | None = None,
    shared: Tensor | None = None,
) -> DataFrame:
    """Rank unseen items alone, for the users among `batches` whose target is one: user, target, rank as of `evaluate`.

    `popularity` int64 [N + 1] is each item's training events. Everything that has one is excluded, and under `filter_seen` what the
    user already took.
    """
    known = popularity[1:].nonzero().squeeze(1) + 1
    size = min(spec.batch_size, max(1, EXCLUDE_BYTES // (8 * max(1, len(known)))))
    if 8 * len(known) > EXCLUDE_BYTES:
        say(f"evaluate: {len(known)} items have training events; excluding them takes {8 * len(known) >> 20} MB a user, one at a time")
    batch = _users_of(batches, popularity)
    unseen = len(popularity) - 1 - len(known)
    say(f"evaluate: {len(batch.user)} users' items are unseen in training; they are ranked once more among the {unseen} such items")

    def exclude(users: Tensor) -> Tensor:
        rows = known.to(users.device).expand(len(users), -1)
        return torch.cat([rows, seen(users)], 1) if spec.filter_seen and seen is not None else rows.contiguous()

    return evaluate(recommender, _chunks(batch, size), replace(spec, filter_seen=True, batch_size=size), exclude, shared).ranks


def _users_of(batches: Iterable[SequenceBatch], popularity: Tensor) -> SequenceBatch:
    """The users whose target has no training event, in one batch."""
    parts = []
    for batch in batches:
        chosen = popularity[batch.target.cpu()] == 0
        if bool(chosen.any()):
            parts.append(SequenceBatch(*(column[chosen.to(column.device)] for column in batch)))
    if not parts:
        raise InputError("no user's target is unseen in training; there is nothing to rank among unseen items")
    longest = max(part.history.shape[1] for part in parts)
    parts = [part._replace(history=pad(part.history, (longest - part.history.shape[1], 0))) for part in parts]
    return SequenceBatch(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _chunks(batch: SequenceBatch, size: int) -> Iterator[SequenceBatch]:
    for begin in range(0, len(batch.user), size):
        yield SequenceBatch(*(column[begin : begin + size] for column in batch))
