"""The logged item and the items that the user takes after it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from genrec.preference.exclusions import representatives, take_first
from genrec.preference.future_events import FutureEvents
from genrec.types import Candidates, ObjectiveContext, Proposals, SequenceBatch
from genrec.types.specification import check_at_least, check_types


@dataclass(frozen=True, kw_only=True)
class LaterItems:
    """The logged item and the user's `size - 1` training events after it, in their order; held-out events are never among them.

    A reward such as `StepDiscountedRating` with `Preference(chosen="best")` then prefers the best of them, as RecPO does. Of events
    with one Semantic ID the first is kept. A row with fewer later events ends in masked candidates.
    """

    size: int = 10  # candidates of a row with the target, at least 2

    def __post_init__(self) -> None:
        check_types(self, "LaterItems")
        check_at_least(self, "LaterItems", 2, "size")

    def most_candidates(self) -> int:
        """Return the largest number of candidates of a row."""
        return self.size

    def build_proposals(self, context: ObjectiveContext) -> Proposals:
        """Return the proposer for one training set."""
        events, representative = FutureEvents(context.data()), representatives(context.data())

        def on_host(rows: SequenceBatch, step: int) -> Candidates:
            later = events.items(rows.user, events.positions(rows).unsqueeze(1) + torch.arange(1, self.size))
            allowed = (later > 0) & (representative[later] != representative[rows.target].unsqueeze(1))
            items = torch.cat([rows.target.unsqueeze(1), take_first(later, allowed, self.size - 1, representative)], 1)
            return Candidates(items, items > 0, items[:, 1] > 0)

        return Proposals(on_host=on_host, static=True)
