"""k-cores: iterated removal of users and items with too few events.

Events lie in a file as (user index, item index, row); memory holds one count and one flag for each user and item. An event is kept if
its user and its item are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy import ndarray

FIELDS = (("user", np.dtype(np.int32)), ("item", np.dtype(np.int32)), ("row", np.dtype(np.int64)))  # of `EventChunk`, in the file
REWRITE = 0.1  # share of removed events in the file from which on it is rewritten
NO_ROW = np.iinfo(np.int64).max  # first row of a user or item without events


class EventChunk(NamedTuple):
    """Consecutive events, one entry in each array."""

    user: ndarray  # int32  user index, from 0
    item: ndarray  # int32  item index, from 0
    row: ndarray  # int64  position of the event in the source's order, from 0


class EventCounts(NamedTuple):
    """Number of events of each user and item, by index."""

    users: ndarray  # int32 [users]
    items: ndarray  # int32 [items]

    @property
    def total(self) -> int:
        """Number of events."""
        return int(self.users.sum(dtype=np.int64))

    @property
    def num_users(self) -> int:
        """Number of users with an event."""
        return int(np.count_nonzero(self.users))

    @property
    def num_items(self) -> int:
        """Number of items with an event."""
        return int(np.count_nonzero(self.items))

    def add(self, chunk: EventChunk) -> None:
        """Count the events of a chunk."""
        for counts, indices in ((self.users, chunk.user), (self.items, chunk.item)):
            np.add.at(counts, indices, np.int32(1))

    def removed(self, after: EventCounts) -> dict[str, int]:
        """Return how many interactions, users and items a filter removed, from the counts after it."""
        return {
            "interactions": self.total - after.total,
            "users": self.num_users - after.num_users,
            "items": self.num_items - after.num_items,
        }


class IndexedEvents:
    """Events as (user index, item index, row) in a file, and flags of the users and items that are still kept."""

    def __init__(self, path: Path, chunks: Iterable[EventChunk], num_users: int, num_items: int) -> None:
        self.path = path
        self.kept_users, self.kept_items = np.ones(num_users, dtype=bool), np.ones(num_items, dtype=bool)
        self._sizes: list[int] = []  # events in each chunk of the file
        self.counts = self._write(path, chunks)

    def chunks(self) -> Iterator[EventChunk]:
        """Yield the kept events."""
        with self.path.open("rb") as file:
            for size in self._sizes:
                user, item, row = (np.fromfile(file, dtype, size) for _, dtype in FIELDS)
                kept = self.kept_users[user] & self.kept_items[item]
                yield EventChunk(user, item, row) if kept.all() else EventChunk(user[kept], item[kept], row[kept])

    def keep(self, users: ndarray, items: ndarray) -> None:
        """Remove the events of all other users and items; bool [users] and bool [items]."""
        # a lower bound of the number of events removed
        removed = max(int(self.counts.users[~users].sum(dtype=np.int64)), int(self.counts.items[~items].sum(dtype=np.int64)))
        self.kept_users &= users
        self.kept_items &= items
        if sum(self._sizes) - (self.counts.total - removed) < REWRITE * sum(self._sizes):
            self.counts = self._zero_counts()
            for chunk in self.chunks():
                self.counts.add(chunk)
        else:
            kept = self.path.with_suffix(".new")
            self.counts = self._write(kept, self.chunks())
            kept.replace(self.path)

    def first_rows(self) -> tuple[ndarray, ndarray]:
        """Return the row of the first kept event of each user and of each item, int64; `NO_ROW` where there is none."""
        users, items = (np.full(len(kept), NO_ROW) for kept in (self.kept_users, self.kept_items))
        for chunk in self.chunks():
            np.minimum.at(users, chunk.user, chunk.row)
            np.minimum.at(items, chunk.item, chunk.row)
        return users, items

    def _write(self, path: Path, chunks: Iterable[EventChunk]) -> EventCounts:
        counts, sizes = self._zero_counts(), []
        with path.open("wb") as file:
            for chunk in chunks:
                for array in chunk:
                    file.write(np.ascontiguousarray(array).data)
                counts.add(chunk)
                sizes.append(len(chunk.user))
        self._sizes = sizes
        return counts

    def _zero_counts(self) -> EventCounts:
        return EventCounts(np.zeros(len(self.kept_users), dtype=np.int32), np.zeros(len(self.kept_items), dtype=np.int32))


def k_core(events: IndexedEvents, min_user_events: int, min_item_events: int) -> None:
    """Reduce the events to the largest subset in which every user and every item has at least these many.

    Users and items below the minimum are removed until none remains (S. B. Seidman, "Network structure and minimum degree", 1983).
    """
    while _any_below(events.counts.users, min_user_events) or _any_below(events.counts.items, min_item_events):
        events.keep(events.counts.users >= min_user_events, events.counts.items >= min_item_events)


def _any_below(counts: ndarray, minimum: int) -> bool:
    return bool(((counts > 0) & (counts < minimum)).any())
