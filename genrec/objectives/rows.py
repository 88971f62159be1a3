"""Rows of a batch: one history and one target each.

A batch of prefixes has one row for each history. A batch of windows has one row for each place with a target, in the order of the
windows and of the places in them, so that samplers, rewards and losses are written for rows alone.
"""

from __future__ import annotations

from torch import Tensor

from genrec.item_rows import prefixes
from genrec.types import SequenceBatch, WindowBatch


def places_of(batch: WindowBatch) -> Tensor:
    """Return the places with a target, int64 [X, 2]: the window and the place in it. Waits for the device of the batch."""
    return batch.target.nonzero()


def with_places(batch: SequenceBatch | WindowBatch) -> tuple[SequenceBatch, Tensor | None]:
    """Return the rows of a batch, each with the whole history before its target, and their places; None for prefixes."""
    if isinstance(batch, SequenceBatch):
        return batch, None
    places = places_of(batch)
    window, place = places.unbind(1)
    return SequenceBatch(batch.user[window], prefixes(batch.history, places), batch.target[window, place]), places


def rows_of(batch: SequenceBatch | WindowBatch) -> SequenceBatch:
    """Return the rows of a batch, each with the whole history before its target."""
    return with_places(batch)[0]
