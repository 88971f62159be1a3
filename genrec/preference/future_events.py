"""The training events of each user in order: where a row stands among them, and what the user takes from there on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from genrec.types import SamplerContext, SequenceBatch
from genrec.types.data import DISLIKED


class FutureEvents:
    """The training events by user and time; ties keep the order of the training data. Held-out events are not among them.

    A position is the number of an event in this order, and `count` stands for no event.
    """

    def __init__(self, context: SamplerContext) -> None:
        table = context.interactions
        order = np.lexsort((table["time"].to_numpy(), table["user"].to_numpy()))  # stable
        user, item = (torch.from_numpy(table[name].to_numpy("int64")[order]) for name in ("user", "item"))
        self.order = order  # int64 [E]  rows of the table
        self.count = len(order)  # E
        self._width = context.item_count + 1
        pairs, number, repeats = torch.unique(user * self._width + item, return_inverse=True, return_counts=True)
        keys = (number * (self.count + 1) + torch.arange(self.count)).sort().values
        kept = torch.ones(self.count, dtype=torch.bool)  # events that stand in histories
        if context.histories == "without disliked":
            kept = torch.from_numpy(table["label"].to_numpy()[order] != DISLIKED)
        end = torch.tensor([torch.iinfo(torch.int64).max])  # larger than any key, so a search always ends on a key
        none = torch.tensor([-1])  # after the last event, of no user
        self._most_repeats = int(repeats.max()) if len(repeats) else 0
        self._tables = {
            "pairs": torch.cat([pairs, end]),  # (user, item), ascending
            "keys": torch.cat([keys, end]),  # (number of the pair, position), ascending
            "user": torch.cat([user, none]),
            "item": torch.cat([item, none]),
            "before": torch.cat([torch.zeros(1, dtype=torch.int64), kept.cumsum(0)]),  # events of histories before each position
            "history_user": torch.cat([user[kept], none]),
            "history_item": torch.cat([item[kept], none]),
        }

    def follow(self, device: torch.device) -> None:
        """Move the events to a device, once, so that a step on a GPU does not wait for it."""
        if self._tables["pairs"].device != device:
            self._tables = {name: table.to(device) for name, table in self._tables.items()}

    def positions(self, rows: SequenceBatch) -> Tensor:
        """Return the position of the target of each row, int64 [X]: the user's first event of the item that follows the history.

        It is `count` for a row that is no training example, such as one of validation.
        """
        found = torch.full_like(rows.target, self.count)
        event = self.next_events(rows.user, torch.zeros_like(rows.target), rows.target.unsqueeze(1)).squeeze(1)
        for _ in range(self._most_repeats):  # once, unless users take items again
            found = torch.where((found == self.count) & self._follows(event, rows), event, found)
            event = self.next_events(rows.user, event + 1, rows.target.unsqueeze(1)).squeeze(1)
        return found

    def next_events(self, user: Tensor, position: Tensor, items: Tensor) -> Tensor:
        """Return the position of the first event of each item int64 [X, M] at or after `position` int64 [X]: int64 [X, M]."""
        pairs, keys = self._tables["pairs"], self._tables["keys"]
        wanted = user.unsqueeze(1) * self._width + items
        number = torch.searchsorted(pairs, wanted)
        key = keys[torch.searchsorted(keys, number * (self.count + 1) + position.unsqueeze(1))]
        known = (pairs[number] == wanted) & (items > 0) & (key // (self.count + 1) == number)
        return torch.where(known, key % (self.count + 1), self.count)

    def items(self, user: Tensor, positions: Tensor) -> Tensor:
        """Return the items at positions int64 [X, M], 0 where the event is not one of the user int64 [X]: int64 [X, M]."""
        place = positions.clamp(max=self.count)
        return torch.where(self._tables["user"][place] == user.unsqueeze(1), self._tables["item"][place], 0)

    def _follows(self, position: Tensor, rows: SequenceBatch) -> Tensor:
        """Return whether the history of each row ends before the event at `position` int64 [X]: bool [X]."""
        length = rows.items.shape[1]
        place = self._tables["before"][position].unsqueeze(1) - torch.arange(length, 0, -1, device=position.device)
        user, item = (self._tables[name][place.clamp(min=0)] for name in ("history_user", "history_item"))
        same = (place >= 0) & (user == rows.user.unsqueeze(1)) & (item == rows.items)
        return (same | (rows.items == 0)).all(1) & (position < self.count)
