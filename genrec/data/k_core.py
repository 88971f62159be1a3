"""Stage 1, k-cores: which users and items keep enough events.

In: the (user, item) codes of all events, in pieces on the disk. Out: bool for every user and every item. An event survives where its
user and its item do, so that the memory is that of two counts, whatever the number of events.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy import ndarray

FIELDS = (("user", np.dtype(np.int32)), ("item", np.dtype(np.int32)), ("row", np.dtype(np.int64)))  # codes from 0; place in the log
REWRITE = 0.1  # survivors are written anew where at least this share of the file is none


class Chunk(NamedTuple):
    """Some events, of which each array has one entry."""

    user: ndarray  # int32
    item: ndarray  # int32
    row: ndarray  # int64  the event's place in the log


class Counts(NamedTuple):
    """Events of each."""

    users: ndarray  # int32 [users]
    items: ndarray  # int32 [items]

    @property
    def events(self) -> int:
        """How many there are."""
        return int(self.users.sum(dtype=np.int64))

    def add(self, chunk: Chunk) -> None:
        """Count these too."""
        for counts, codes in ((self.users, chunk.user), (self.items, chunk.item)):
            np.add.at(counts, codes, np.int32(1))

    def removed(self, after: Counts) -> dict[str, int]:
        """How many interactions, users and items went."""
        return {
            "interactions": self.events - after.events,
            "users": int((self.users > 0).sum() - (after.users > 0).sum()),
            "items": int((self.items > 0).sum() - (after.items > 0).sum()),
        }


class Pairs:
    """The events' codes in a file, and which users and items are still kept."""

    def __init__(self, path: Path, chunks: Iterable[Chunk], users: int, items: int) -> None:
        self.path = path
        self.users, self.items = np.ones(users, dtype=bool), np.ones(items, dtype=bool)
        self._sizes: list[int] = []  # events in each chunk of the file
        self.counts = self._write(path, chunks)

    def chunks(self) -> Iterator[Chunk]:
        """The events that are kept."""
        with self.path.open("rb") as file:
            for size in self._sizes:
                user, item, row = (np.fromfile(file, kind, size) for _, kind in FIELDS)
                kept = self.users[user] & self.items[item]
                yield Chunk(user, item, row) if kept.all() else Chunk(user[kept], item[kept], row[kept])

    def keep(self, users: ndarray, items: ndarray) -> None:
        """Keep only these, bool [users] and [items], of those that are left."""
        lost = max(int(self.counts.users[~users].sum(dtype=np.int64)), int(self.counts.items[~items].sum(dtype=np.int64)))  # at least
        self.users &= users
        self.items &= items
        if sum(self._sizes) - (self.counts.events - lost) < REWRITE * sum(self._sizes):
            self.counts = self._none()
            for chunk in self.chunks():
                self.counts.add(chunk)
        else:
            survivors = self.path.with_suffix(".new")
            self.counts = self._write(survivors, self.chunks())
            survivors.replace(self.path)

    def first_rows(self) -> tuple[ndarray, ndarray]:
        """The place in the log of the first kept event of each user and item, int64; a large number where there is none."""
        first = tuple(np.full(len(kept), np.iinfo(np.int64).max) for kept in (self.users, self.items))
        for chunk in self.chunks():
            np.minimum.at(first[0], chunk.user, chunk.row)
            np.minimum.at(first[1], chunk.item, chunk.row)
        return first[0], first[1]

    def _write(self, path: Path, chunks: Iterable[Chunk]) -> Counts:
        counts, sizes = self._none(), []
        with path.open("wb") as file:
            for chunk in chunks:
                for part in chunk:
                    file.write(np.ascontiguousarray(part).data)
                counts.add(chunk)
                sizes.append(len(chunk.user))
        self._sizes = sizes
        return counts

    def _none(self) -> Counts:
        return Counts(np.zeros(len(self.users), dtype=np.int32), np.zeros(len(self.items), dtype=np.int32))


def k_core(pairs: Pairs, users: int, items: int) -> None:
    """Leave the largest subset in which every user has `users` events or more and every item has `items`.

    Those below it are removed by turns until none is left (S. B. Seidman, "Network structure and minimum degree", 1983).
    """
    while _any_below(pairs.counts.users, users) or _any_below(pairs.counts.items, items):
        pairs.keep(pairs.counts.users >= users, pairs.counts.items >= items)


def _any_below(counts: ndarray, least: int) -> bool:
    return bool(((counts > 0) & (counts < least)).any())
