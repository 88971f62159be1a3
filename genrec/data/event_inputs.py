"""The inputs of histories beside the items, for policies that ask for them: see `genrec.types.EventHistory`.

A user is read as a hash of the id in the data set (`genrec.data.corpus.user_hash`), so that it does not depend on the process, on the
order of the rows, on the filters or on the other users.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from genrec.data.corpus import Corpus
from genrec.data.feedback_targets import KeptEvents
from genrec.errors import InputError
from genrec.types import EventHistory, HistoryInput
from genrec.types.event_history import as_tensor


class EventInputs(NamedTuple):
    """The inputs of all users and of all events that stand in histories; None where a policy does not ask for them."""

    user: Tensor | None  # int64 [U]  hash of each user's id; entry u is user u + 1
    time: Tensor | None  # int64 [K]  seconds since 1970, of the events in the order of the items that histories are gathered from
    rating: Tensor | None  # float32 [K]  NaN where missing

    def beside(self, items: Tensor, user: Tensor, position: Tensor) -> Tensor:
        """Return the `EventHistory` of items int64 [B, T] of users int64 [B], from positions int64 [B, T] of their events.

        Places without an item (0) have no inputs, whatever their position.
        """
        empty = items == 0
        history = EventHistory(
            items,
            None if self.user is None else self.user[user - 1],
            None if self.time is None else self.time[position].masked_fill(empty, 0),
            None if self.rating is None else self.rating[position].masked_fill(empty, torch.nan),
        )
        return as_tensor(history)


def event_inputs(corpus: Corpus, inputs: Sequence[HistoryInput], kept: KeptEvents | None) -> EventInputs | None:
    """Return the inputs that a policy asks for; None without any. `kept` are the events of histories (None: all).

    Raises InputError if the data set has no ratings or no times and they are asked for.
    """
    if not inputs:
        return None
    check_recorded(corpus, inputs)
    chosen = None if kept is None else kept.before.diff() > 0  # bool [E]

    def of_events(values: Tensor) -> Tensor:
        return values if chosen is None else values[chosen]

    rating = None if "rating" not in inputs or corpus.rating is None else torch.from_numpy(np.array(corpus.rating, dtype=np.float32))
    return EventInputs(
        torch.from_numpy(corpus.user_hashes) if "user" in inputs else None,
        of_events(torch.from_numpy(corpus.time)) if "time" in inputs else None,
        None if rating is None else of_events(rating),
    )


def check_recorded(corpus: Corpus, inputs: Sequence[HistoryInput], reader: str = "the policy", data: str | None = None) -> None:
    """Raise InputError if the data set has no ratings or no times and the policy asks for them.

    `reader` and `data` name the policy and the data in the message.
    """
    found = f"the data of {data or corpus.folder}"
    if "rating" in inputs and (corpus.rating is None or np.isnan(corpus.rating).all()):
        raise InputError(f"{reader} reads ratings of events, and {found} have none; {_next_step('rating')}")
    if "time" in inputs and corpus.statistics["times_are_row_numbers"]:
        raise InputError(f"{reader} reads times of events, and {found} have none, only an order of rows; {_next_step('time')}")


def _next_step(name: str) -> str:
    """Return what to do about a column that the data lack."""
    return f"name the column of {name}s in the source, or take a policy that reads none, such as Tiger or Gpt by default"
