"""The logged item against the items of the history."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from genrec.preference.exclusions import representatives, take_first
from genrec.types import Candidates, ObjectiveContext, Proposals, SequenceBatch
from genrec.types.specification import check_at_least, check_types


@dataclass(frozen=True, kw_only=True)
class History:
    """The logged item, which is preferred, and the newest distinct items of the history.

    Where lists keep seen items, these are the policy's most frequent errors. Items with the target's Semantic ID are left out, and of
    several items with one Semantic ID the newest is taken. A row with fewer items ends in masked candidates.
    """

    size: int = 16  # candidates of a row with the target, at least 2

    def __post_init__(self) -> None:
        check_types(self, "History")
        check_at_least(self, "History", 2, "size")

    def most_candidates(self) -> int:
        """Return the largest number of candidates of a row."""
        return self.size

    def build_proposals(self, context: ObjectiveContext) -> Proposals:
        """Return the proposer for one training set."""
        representative = representatives(context.data())

        def from_history(rows: SequenceBatch) -> Candidates:
            newest = rows.items.flip(1)
            allowed = (newest > 0) & (representative[newest] != representative[rows.target].unsqueeze(1))
            items = torch.cat([rows.target.unsqueeze(1), take_first(newest, allowed, self.size - 1, representative)], 1)
            return Candidates(items, items > 0, items[:, 1] > 0)

        def on_host(rows: SequenceBatch, step: int) -> Candidates:
            return from_history(rows)

        return Proposals(on_host=on_host, static=True, for_validation=from_history)
