"""Rows of a batch: one history and one target each.

A batch of prefixes has one row for each history. A batch of windows has one row for each place with a target, in the order of the
windows and of the places in them, so that samplers, rewards and losses are written for rows alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genrec.types import SequenceBatch, WindowBatch


def places_of(batch: WindowBatch) -> Tensor:
    """Return the places with a target, int64 [X, 2]: the window and the place in it. Waits for the device of the batch."""
    return batch.target.nonzero()


def rows_of(batch: SequenceBatch | WindowBatch) -> SequenceBatch:
    """Return the rows of a batch, each with the whole history before its target."""
    if isinstance(batch, SequenceBatch):
        return batch
    window, place = places_of(batch).unbind(1)
    length = batch.history.shape[1]
    index = torch.arange(length, device=batch.history.device) - (length - 1 - place).unsqueeze(1)  # [X, T]; negative: padding
    history = torch.where(index >= 0, batch.history[window.unsqueeze(1), index.clamp(min=0)], 0)
    return SequenceBatch(batch.user[window], history, batch.target[window, place])
